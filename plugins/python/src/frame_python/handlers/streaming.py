"""Token by token text: pieces of tokens that make whole characters, and the lines that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CONTEXT = 6
"""Tokens of the prompt that are decoded with the first ones of the answer: whether a word begins with a space
depends on what is before it."""
_UNFINISHED = "\ufffd"


class Detokenizer:
    """Turns tokens into text as they come.

    Invariant: the pieces, `flush` last, joined are what decoding prompt and answer at once has after the
    prompt.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._begin = 0
        self._read = len(self._ids)

    def add(self, token: int) -> str:
        """Return the text that is certain after one more token; "" within a character."""
        self._ids.append(token)
        return self._advance(is_end=False)

    def flush(self) -> str:
        """Return what is left, a character that was cut off as U+FFFD."""
        return self._advance(is_end=True)

    def _advance(self, *, is_end: bool) -> str:
        before = self._decode(self._ids[self._begin : self._read])
        text = self._decode(self._ids[self._begin :])
        if len(text) <= len(before) or (text.endswith(_UNFINISHED) and not is_end):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


JSONLINES = "application/jsonlines"
EVENTS = "text/event-stream"


def frame_line(line: bytes, form: str) -> bytes:
    """Return one JSON text as a line of jsonlines, or as a server-sent event."""
    return b"data: " + line + b"\n\n" if form == "sse" else line + b"\n"

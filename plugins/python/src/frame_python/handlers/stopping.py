"""Find stop sequences in a text that comes in pieces, and hold back what may become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes a text on piece by piece, up to the first stop sequence.

    Invariant: what was released, joined, is the text before the stop sequence that ends first; no part of it
    is ever released, wherever the pieces were cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.has_stopped = False

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be released now. After a stop nothing is."""
        if self.has_stopped:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        # The stop that ends first counts: its text is complete before any other's.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.has_stopped, self._held = True, ""
            return text[: min(found)[1]]
        kept = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """Return what is held back: the text ended otherwise."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that a stop sequence begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

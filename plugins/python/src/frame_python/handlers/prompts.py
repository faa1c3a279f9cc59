"""From a prompt's text to its tokens, within the model's length."""

from __future__ import annotations

from typing import Any

from frame.api import RequestError

from frame_python.handlers.parameters import Parameters


def encode_prompt(tokenizer: Any, text: str, parameters: Parameters, max_tokens: int) -> list[int]:
    """Return the tokens of a prompt that leaves room for at least one more.

    Raises:
        RequestError: 400, the prompt is empty or too long.
    """
    # A lone surrogate, which JSON can carry, has no UTF-8 and stops a tokenizer.
    clean = text.encode("utf-8", "replace").decode()
    ids: list[int] = tokenizer(clean)["input_ids"] if clean else []
    if parameters.truncate is not None:
        ids = ids[-parameters.truncate :]
    if not ids:
        raise RequestError(400, "inputs: the text is empty")
    if len(ids) >= max_tokens:
        raise RequestError(
            400,
            f"inputs: the prompt has {len(ids)} tokens; prompt and answer together may have {max_tokens} "
            f"(option.max_tokens): shorten it, or set parameters.truncate to at most {max_tokens - 1}",
        )
    return ids

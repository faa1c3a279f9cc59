"""What a scheduler may know of a request without reading its payload."""

from __future__ import annotations

from typing import NamedTuple


class BatchHint(NamedTuple):
    """Says which requests can run together, and how much of a batch one takes.

    Attributes:
        key: requests of one batch have the same; by default the content type.
        cost: >= 1; elements of a batch's budget, by default the body's bytes.
    """

    key: bytes = b""
    cost: int = 1


NO_HINT = BatchHint()

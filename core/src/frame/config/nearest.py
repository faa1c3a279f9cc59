"""Find the key that a misspelt one was meant to be. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NEAR = 2
_SHORT = 4
_SIMILAR = 0.6


def edit_distance(a: str, b: str) -> int:
    """Count the insertions, deletions and replacements of one character that make `b` of `a`."""
    row = list(range(len(b) + 1))
    for i, from_a in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, from_b in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (from_a != from_b))
    return row[-1]


def near_key(key: str, known: Iterable[str]) -> str | None:
    """Return the known key within edit distance 2 of `key` (1 for up to four letters), case ignored.

    `option.` does not count: taking `batch_size` for `option.batch_size` is the usual slip.
    """
    word = _bare(key)
    allowed = 1 if len(word) <= _SHORT else _NEAR
    ranked = sorted((edit_distance(word, _bare(other)), other) for other in known if other != key)
    return ranked[0][1] if ranked and ranked[0][0] <= allowed else None


def suggest_key(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that `key` most likely meant, or None when nothing is like it."""
    candidates = sorted(known)
    near = near_key(key, candidates)
    if near is not None:
        return near
    by_word = {_bare(other): other for other in reversed(candidates)}
    similar = difflib.get_close_matches(_bare(key), by_word, n=1, cutoff=_SIMILAR)
    return by_word[similar[0]] if similar else None


def _bare(key: str) -> str:
    return key.removeprefix("option.").lower()

"""Which version of a model is the newest, and answers where nothing else is ruled; what replaces another."""

from __future__ import annotations

from dataclasses import dataclass

from frame.pool.model import ModelPool


@dataclass(frozen=True, slots=True)
class Replaced:
    """The pool that answers, and why it is not the one that was to replace it; empty when it is."""

    pool: ModelPool
    reason: str


def preference(pool: ModelPool) -> tuple[bool, bool, object]:
    """Return a key that sorts pools: ending ones first, then unready ones, then by version."""
    is_ready = pool.status == "READY"
    return (not pool.is_closing, is_ready, version_order(pool.plan.version))


def version_order(version: str | None) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """Return a key that sorts versions: none first, then by numbers (`1.10` after `1.9`) and letters."""
    if version is None:
        return (0, ())
    words = version.replace("-", ".").replace("_", ".").lstrip("vV").split(".")
    return (1, tuple((1, int(word), "") if word.isdecimal() else (0, 0, word) for word in words))

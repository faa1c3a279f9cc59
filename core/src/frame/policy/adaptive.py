"""Adaptive batching (being written)."""

from __future__ import annotations

from dataclasses import dataclass

from frame.policy.batching import BatchLimits

DEFAULT_MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimits:
    """What to choose towards."""

    target: float
    most: int


class AdaptiveBatching:
    """Chooses."""

    reason = ""

    def __init__(self, limits: AdaptiveLimits, start: BatchLimits) -> None:
        self.limits, self.start = limits, start

    def observe(self, size: int, seconds: float, now: float, *, workers: int, queued: int) -> None:
        """Count a batch."""

    def decide(self, now: float, *, workers: int, queued: int) -> BatchLimits | None:  # noqa: ARG002
        """Return nothing yet."""
        return None

"""Which rank of a group no longer keeps up with the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_INTERVAL = 1.0
"""Seconds between two questions, at most."""
_QUESTIONS = 8
"""Questions within `timeout`, at least."""
_ROUNDING = 1e-6
_UNCERTAIN = 2
"""Questions for which a rank may have been behind unseen: one before the first, one until it is named."""


@dataclass(slots=True)
class _Rank:
    progress: int = 0
    before: int = -1
    """Its progress when it was last judged."""
    is_heard: bool = True
    """Whether it answered since it was last judged."""
    times_behind: int = 0


class StallPolicy:
    """Judges the ranks of one group by their answers to questions that are asked of all of them at once.

    A rank is behind when it is silent while another one answers, or when its progress is less than another's
    and has not changed. What counts is questions, not seconds: a router that stood still itself asked none.

    Invariants: a rank is named only if it was behind at each of the last `most_behind` questions; ranks that
        are all silent, or all equal, are never named; one that stays behind is named within `timeout`.

    Attributes:
        interval: seconds from one question to the next.
        most_behind: questions in a row at which a rank may be behind.
    """

    def __init__(self, ranks: int, timeout: float) -> None:
        """Judge `ranks` ranks; one may be behind for `timeout` seconds."""
        self.interval = min(LONGEST_INTERVAL, timeout / _QUESTIONS)
        self.most_behind = math.floor(timeout / self.interval + _ROUNDING) - _UNCERTAIN
        self._ranks = [_Rank() for _ in range(ranks)]

    def heard(self, rank: int, progress: int) -> None:
        """Take an answer: what the rank has begun plus what it has ended."""
        item = self._ranks[rank]
        item.is_heard, item.progress = True, progress

    def judge(self) -> str:
        """Return which rank is stalled and why, "" while none is; called just before each question."""
        furthest = max(item.progress for item in self._ranks)  # also of who is silent now: it never falls
        for item in self._ranks:
            is_silent = not item.is_heard and self._any_heard
            is_late = item.is_heard and item.progress < furthest and item.progress == item.before
            if is_silent or is_late:
                item.times_behind += 1
            elif item.is_heard:
                item.times_behind = 0
        verdict = self._verdict(furthest)
        for item in self._ranks:
            item.before, item.is_heard = item.progress, False
        return verdict

    @property
    def _any_heard(self) -> bool:
        return any(item.is_heard for item in self._ranks)

    def _verdict(self, furthest: int) -> str:
        for number, item in enumerate(self._ranks):
            if item.times_behind >= self.most_behind:
                if not item.is_heard:
                    return f"rank {number} is silent while another rank answers"
                return f"rank {number} stands at {item.progress} while another rank is at {furthest}"
        return ""

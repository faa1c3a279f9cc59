"""Requests copied to a version whose answers nobody gets (shadow traffic)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from frame.errors import CapacityError, FrameError
from frame.policy.traffic import ShadowRule
from frame.pool.budget import ByteBudget
from frame.pool.comparison import Comparison, compare
from frame.pool.jobs import Answer, Job
from frame.pool.model import ModelPool
from frame.pool.traffic import ShadowCounts

_log = logging.getLogger(__name__)
MAX_WAITING = 64
"""Copies of one version without an answer; further ones are skipped."""
_LAST = 1000  # of its queue


class Shadows:
    """Makes copies, which real requests come before: what has no room is skipped.

    Invariant: copies hold at most a quarter of the bytes that the server may, and fill no more than half of
        the queue of their version.
    """

    def __init__(self, find: Callable[[str, str], ModelPool], budget: ByteBudget, ids: Iterator[int]) -> None:
        """Send copies to the pools that `find` finds by model and version."""
        self._find = find
        self._budget = budget
        self._room = ByteBudget(budget.limit // 4)
        self._ids = ids

    def copy(self, job: Job, model: str, rule: ShadowRule, counts: ShadowCounts) -> None:
        """Send a copy of a job that was just queued elsewhere."""
        held = _Held(self._budget, self._room)
        copy = replace(job, id=next(self._ids), parts=[], priority=_LAST, watcher=None)
        copy.answer = asyncio.get_running_loop().create_future()
        try:
            pool = self._find(model, rule.version)
            is_full = 2 * pool.queue_length >= pool.plan.queue_size or counts.waiting >= MAX_WAITING
            if is_full or not held.take(job.size_bytes):
                raise CapacityError("no room for a copy")
            for key, payload in job.parts:
                copy.parts.append((key, payload.copy()))
            pool.submit(copy)
        except (FrameError, OSError):  # no room, not ready, or no descriptor left
            copy.close()
            held.give_back()
            counts.count("skipped")
            return
        _Pair(job, copy, pool, counts, rule.tolerance, held)


class _Held:
    """Bytes that a copy holds, of the server's and of those for copies; given back once."""

    def __init__(self, budget: ByteBudget, room: ByteBudget) -> None:
        self._budgets = (budget, room)
        self._bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Take bytes if there is room for them in both."""
        budget, room = self._budgets
        if not room.take(size_bytes):
            return False
        if not budget.take(size_bytes):
            room.give_back(size_bytes)
            return False
        self._bytes += size_bytes
        return True

    def give_back(self) -> None:
        """Return all."""
        for budget in self._budgets:
            budget.give_back(self._bytes)
        self._bytes = 0


class _Pair:
    """A request and its copy, until both have ended.

    Invariant: bytes that it took from the budget are given back once.
    """

    def __init__(
        self,
        job: Job,
        copy: Job,
        pool: ModelPool,
        counts: ShadowCounts,
        tolerance: float,
        held: _Held,
    ) -> None:
        self._job = job
        self._copy = copy
        self._pool = pool
        self._counts = counts
        self._tolerance = tolerance
        self._held = held
        self._has_ended = False
        counts.waiting += 1
        job.answer.add_done_callback(self._answered)
        copy.answer.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[Answer]) -> None:
        if self._has_ended:
            return
        answer = None if future.cancelled() else future.result()
        if answer is None or answer.stream is not None or not self._held.take(len(answer.body or b"")):
            self._end(Comparison("not_compared"))
        elif self._job.answer.done() and self._copy.answer.done():
            self._end(self._compared())

    def _compared(self) -> Comparison:
        try:
            return compare(self._job.answer.result(), self._copy.answer.result(), self._tolerance)
        except Exception:  # noqa: BLE001  # fault line: around two answers that anybody may have written
            _log.exception("shadow_not_compared request=%s", self._job.request_id)
            return Comparison("not_compared")

    def _end(self, comparison: Comparison) -> None:
        self._has_ended = True
        self._counts.waiting -= 1
        self._held.give_back()
        self._pool.cancel(self._copy)
        if self._copy.answer.done() and not self._copy.answer.cancelled():
            stream = self._copy.answer.result().stream
            if stream is not None:
                stream.close()
        self._counts.count(comparison.result)
        if comparison.result in {"different", "failed"}:
            self._counts.differences.append((self._job.request_id, comparison.place))
            facts = (self._pool.plan.name, self._pool.plan.version, self._job.request_id, comparison.place)
            _log.info("shadow_differs model=%s version=%s request=%s at=%s", *facts)

"""Requests copied to a version whose answers nobody gets (shadow traffic)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from frame.errors import FrameError
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
    """Makes copies. A copy costs its request nothing: what has no room in queue or memory is skipped."""

    def __init__(self, find: Callable[[str, str], ModelPool], budget: ByteBudget, ids: Iterator[int]) -> None:
        """Send copies to the pools that `find` finds by model and version."""
        self._find = find
        self._budget = budget
        self._ids = ids

    def copy(self, job: Job, model: str, rule: ShadowRule, counts: ShadowCounts) -> None:
        """Send a copy of a job that was just queued elsewhere."""
        if counts.waiting >= MAX_WAITING or not self._budget.take(job.size_bytes):
            counts.count("skipped")
            return
        copy = replace(
            job,
            id=next(self._ids),
            parts=[(key, payload.copy()) for key, payload in job.parts],
            answer=asyncio.get_running_loop().create_future(),
            priority=_LAST,
            watcher=None,
        )
        try:
            pool = self._find(model, rule.version)
            pool.submit(copy)
        except FrameError:  # its queue is full, or it is not ready
            copy.close()
            self._budget.give_back(copy.size_bytes)
            counts.count("skipped")
            return
        _Pair(job, copy, pool, counts, rule.tolerance, self._budget)


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
        budget: ByteBudget,
    ) -> None:
        self._job = job
        self._copy = copy
        self._pool = pool
        self._counts = counts
        self._tolerance = tolerance
        self._budget = budget
        self._held = copy.size_bytes
        self._has_ended = False
        counts.waiting += 1
        job.answer.add_done_callback(self._answered)
        copy.answer.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[Answer]) -> None:
        if self._has_ended:
            return
        answer = None if future.cancelled() else future.result()
        if answer is None or answer.stream is not None or not self._hold(answer):
            self._end(Comparison("not_compared"))
        elif self._job.answer.done() and self._copy.answer.done():
            self._end(compare(self._job.answer.result(), self._copy.answer.result(), self._tolerance))

    def _hold(self, answer: Answer) -> bool:
        """Take room for an answer that waits for the other one."""
        size = len(answer.body or b"")
        if not self._budget.take(size):
            return False
        self._held += size
        return True

    def _end(self, comparison: Comparison) -> None:
        self._has_ended = True
        self._counts.waiting -= 1
        self._budget.give_back(self._held)
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

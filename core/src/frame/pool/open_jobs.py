"""The requests of one model that somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from frame.pool.jobs import Answer, Job
from frame.pool.metrics import ModelMetrics, outcome_of
from frame.pool.request_log import RequestLog


class OpenJobs:
    """Jobs between admission and answer.

    Invariants: a job ends once, with the first of answer, end of its stream and cancellation; each end is
        counted, and frees the job's payloads.
    """

    def __init__(
        self, metrics: ModelMetrics, request_log: RequestLog | None, clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._request_log = request_log
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._idle: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __contains__(self, job: Job) -> bool:
        return job.id in self._jobs

    def add(self, job: Job) -> None:
        """Take a job in."""
        self._jobs[job.id] = job

    def finish(self, job: Job, answer: Answer) -> None:
        """Give a job its answer; the first one counts."""
        if not self._forget(job):
            return
        if not job.answer.done():
            job.answer.set_result(answer)
        total = self._count(job, outcome_of(answer.status))
        if self._request_log is not None and job.dispatched:
            self._request_log.add(queue=job.dispatched - job.arrived, inference=job.inference, total=total)
        job.close()

    def begin_stream(self, job: Job, answer: Answer) -> None:
        """Give a job an answer whose body is still coming."""
        job.stream = answer.stream
        if not job.answer.done():
            job.answer.set_result(answer)

    def end_stream(self, job: Job, *, is_broken: bool = False) -> None:
        """Count a job whose stream ended and forget it."""
        if self._forget(job):
            outcome = "cancelled" if job.answer.cancelled() else outcome_of(job.answer.result().status)
            self._count(job, "server_error" if is_broken else outcome)
            job.close()

    def cancel(self, job: Job) -> bool:
        """Forget a job whose client went away; False when it had ended. Its payloads stay open."""
        if not self._forget(job):
            return False
        self._count(job, "cancelled")
        return True

    async def wait_until_none(self, timeout: float) -> None:  # the wait is on a future made here
        """Return when every job has ended, after `timeout` seconds at most."""
        if self._jobs:
            if self._idle is None or self._idle.done():  # several may wait
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._idle,), timeout=timeout)

    def _count(self, job: Job, outcome: str) -> float:
        job.ended = self._clock()
        seconds = job.ended - job.arrived
        if job.trace is not None:
            job.trace.finish(job)
        self._metrics.count_request(outcome, seconds)
        job.tell(outcome, seconds)
        return seconds

    def _forget(self, job: Job) -> bool:
        if self._jobs.pop(job.id, None) is None:
            return False
        if not self._jobs and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return True

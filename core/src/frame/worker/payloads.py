"""What the router sent to a rank that follows, until rank 0 says what to do with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from frame.contract.requests import Part
from frame.wire.messages import JobHead, RunHead
from frame.worker.channel import PartReader


class Payload(NamedTuple):
    """One job as the router sent it, and its place in its batch, from 0."""

    head: JobHead
    parts: tuple[Part, ...]
    position: int


class Payloads:
    """Payloads by batch and by job. Thread-safe.

    Invariants: a job is here from `add` until it is taken, alone or with its batch; a batch is here as long
    as one of its jobs is.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: dict[int, dict[int, Payload]] = {}
        self._batch_of: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of jobs that are here."""
        return len(self._batch_of)

    def add(self, head: RunHead, buffers: list[memoryview]) -> None:
        """Keep the jobs of a message; `buffers` are its body, then its mapped parts."""
        reader = PartReader(buffers)
        jobs = {
            job.id: Payload(job, reader.take(job.parts), position) for position, job in enumerate(head.jobs)
        }
        with self._changed:
            if jobs:
                self._batches[head.batch] = jobs
            self._batch_of.update(dict.fromkeys(jobs, head.batch))
            self._changed.notify_all()

    def take_batch(self, batch: int, timeout: float) -> list[Payload]:
        """Return what is left of a batch, in its order.

        Raises:
            TimeoutError: nothing of it came for `timeout` seconds.
        """
        with self._changed:
            self._wait(self._batches, batch, "batch", timeout)
            jobs = self._batches.pop(batch)
            for job in jobs:
                del self._batch_of[job]
        return list(jobs.values())

    def take_job(self, job: int, timeout: float) -> Payload:
        """Return one job.

        Raises:
            TimeoutError: it did not come for `timeout` seconds.
        """
        with self._changed:
            self._wait(self._batch_of, job, "job", timeout)
            batch = self._batch_of.pop(job)
            payload = self._batches[batch].pop(job)
            if not self._batches[batch]:
                del self._batches[batch]
        return payload

    def _wait(self, table: Mapping[int, object], key: int, what: str, timeout: float) -> None:
        if not self._changed.wait_for(lambda: key in table, timeout):
            raise TimeoutError(f"the payload of {what} {key} did not come within {timeout:g} s")

"""A batch that a worker group has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from frame.policy.records import BatchRecord
from frame.pool.jobs import Job


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that a group has; a job leaves when it is finished.

    Attributes:
        deadline: when it is overdue; infinite while it waits in the worker behind another batch.
        is_suspect: its only job was in a group that died.
        started: when a slot had it.
        record: what is remembered of it.
    """

    id: int
    jobs: dict[int, Job]
    deadline: float = math.inf
    is_suspect: bool = False
    started: float = 0.0
    record: BatchRecord | None = None

    @property
    def has_started(self) -> bool:
        """Whether a slot runs it; if not, it waits in the worker for the batch before it."""
        return self.deadline < math.inf

    @property
    def waits_for_readers(self) -> bool:
        """Whether all that is left are streams whose clients do not read; that is no hang of the model."""
        return all(job.stream is not None and job.stream.waits_for_reader for job in self.jobs.values())


def jobs_waiting(batches: Mapping[int, Batch]) -> int:
    """Return how many jobs no slot runs yet."""
    return sum(len(batch.jobs) for batch in batches.values() if not batch.has_started)


def late_batches(batches: Mapping[int, Batch], now: float, limit: float) -> set[int]:
    """Return the batches that are overdue; those that wait for readers get `limit` seconds more."""
    late = [batch for batch in batches.values() if batch.deadline <= now]
    for batch in late:
        if batch.waits_for_readers:
            batch.deadline = now + limit
    return {batch.id for batch in late if batch.deadline <= now}


def taken_batches(batches: Mapping[int, Batch], threads: int) -> list[Batch]:
    """Return the batches that were sent to wait for the one before them, and that a thread runs all the same.

    There is one when a slot was added since, or when a slot that is to leave still runs its last batch.

    Args:
        threads: of the worker, that may run a batch.
    """
    waiting = [batch for batch in batches.values() if not batch.has_started]
    return waiting[: max(0, threads - (len(batches) - len(waiting)))]

"""What becomes of the requests of a worker group that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frame.policy.blame import is_blamed
from frame.policy.recovery import POISONOUS_DEATHS, Interrupted, why_not_again
from frame.pool.batches import Batch
from frame.pool.deaths import GroupEnd
from frame.pool.group import WorkerGroup
from frame.pool.jobs import Answer
from frame.pool.quarantine import hold

if TYPE_CHECKING:
    from frame.pool.model import ModelPool


def recover_batch(pool: ModelPool, group: WorkerGroup, batch: Batch, end: GroupEnd) -> None:
    """Decide for each unfinished job of a group that ended: run again, or answer why not."""
    blamed = is_blamed(
        end.kind,
        has_started=batch.has_started,
        is_hung=batch.id in group.hung_batches,
        any_hung=bool(group.hung_batches),
    )
    for job in reversed([job for job in batch.jobs.values() if job in pool.open_jobs]):
        job.group_key = 0
        job.deaths += blamed
        reason = why_not_again(
            Interrupted(
                deaths=job.deaths,
                has_streamed=job.stream is not None,
                retries=pool.plan.group.retry_on_crash,
                cause=end.cause,
            )
        )
        if reason is None and pool.status != "FAILED":
            pool.wait_again(job)
        elif job.stream is not None:
            job.stream.end(f"the worker ended: {end.cause}")
            pool.open_jobs.end_stream(job, is_broken=True)
        else:
            if job.deaths >= POISONOUS_DEATHS:
                hold(pool.quarantine, job, pool.plan.name, pool.clock)
            message = reason or f"Model is not ready: {pool.plan.name}: {end.cause}"
            pool.open_jobs.finish(job, Answer(status=503, type_name="WorkerDiedError", message=message))

"""What a model version is explained from, gathered from its pool."""

from __future__ import annotations

from dataclasses import replace

from frame.policy.batching import BatchLimits
from frame.policy.explain_view import BatchTimes, ExplainView, mean
from frame.policy.lifecycle import GroupState
from frame.policy.scaling import ScalingLimits
from frame.pool.metrics import Histogram
from frame.pool.model import ModelPool


def explain_view_of(pool: ModelPool, *, cpu_threads: int) -> ExplainView:
    """Return a model version's records, measurements and counts of this moment.

    Args:
        cpu_threads: that all workers on the CPU together may compute with.
    """
    plan, metrics, now = pool.plan, pool.metrics, pool.clock()
    groups = pool.groups.values()
    return ExplainView(
        now=now,
        journal=pool.journal,
        times=_times(pool),
        limits=_limits(pool),
        is_adaptive=plan.adaptive is not None,
        scaling=ScalingLimits(minimum=plan.min_workers, maximum=plan.max_workers, max_idle=plan.max_idle),
        workers=sum(group.plan_slots for group in groups if group.state is GroupState.READY),
        starting=sum(group.plan_slots for group in groups if group.state is GroupState.STARTING),
        queued=pool.queue_length,
        cpu_workers=max(1, cpu_threads // plan.group.threads) if plan.is_on_cpu else None,
        requests=sum(metrics.request.counts),
        request_seconds=_mean(metrics.request),
        queue_seconds=_mean(metrics.queue_wait),
        ends=dict(metrics.restarts),
        held=len(pool.quarantine),
        quarantine_time=pool.quarantine.seconds,
        failure=pool.reason if pool.status == "FAILED" else None,
    )


def _limits(pool: ModelPool) -> BatchLimits:
    """Return the limits in force: the configured ones, or the last choice of adaptive batching."""
    if not pool.journal.choices:
        return pool.plan.batching
    last = pool.journal.choices[-1]
    return replace(pool.plan.batching, batch_size=last.batch_size, max_delay=last.max_delay)


def _mean(histogram: Histogram) -> float:
    return histogram.total / max(1, sum(histogram.counts))


def _times(pool: ModelPool) -> BatchTimes:
    """Return what the recorded batches took, and the line through their times that the policies use."""
    by_size: dict[int, list[float]] = {}
    for record in pool.journal.batches:
        if record.seconds is not None:
            by_size.setdefault(record.size, []).append(record.seconds)
    measured = {size: mean(times) for size, times in sorted(by_size.items())}
    fit = pool.times.fit()
    if not measured or fit is None or not fit.knows_sizes:
        return BatchTimes(measured=measured)
    return BatchTimes(measured=measured, base=fit.base, per_item=fit.per_item)

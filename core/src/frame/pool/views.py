"""What the control plane and the metrics show of a model's pool."""

from __future__ import annotations

from collections.abc import Mapping

from frame.config.view import shown_model_settings
from frame.http.host import ModelView, RankView, WorkerGroupView, WorkerState, WorkerView
from frame.policy.lifecycle import GroupState
from frame.policy.wording import without_places
from frame.pool.group import WorkerGroup
from frame.pool.model import ModelPool
from frame.pool.plan import Place
from frame.pool.unserved import UnservedModel


def view_of(pool: ModelPool) -> ModelView:
    """Return what the control plane shows of one model version."""
    config = pool.plan.config
    settings = {key: (shown.value, str(shown.source)) for key, shown in shown_model_settings(config).items()}
    ready = [group for group in pool.groups.values() if group.signature is not None]
    return ModelView(
        name=pool.plan.name,
        version=pool.plan.version,
        url=pool.plan.url,
        engine=pool.plan.group.engine.name,
        status=pool.status,
        reason=pool.reason or _why_short(pool),
        is_asleep=pool.is_asleep,
        batch_size=config.batch_size,
        max_batch_delay_ms=config.max_batch_delay,
        max_idle_time=config.max_idle_time,
        job_queue_size=config.job_queue_size,
        requests_in_queue=pool.queue_length,
        loaded_at_startup=pool.plan.loaded_at_startup,
        groups=tuple(_group_view(pool, place) for place in pool.plan.places),
        signature=ready[0].signature if ready else None,
        self_check=self_check_of(pool),
        settings=settings,
        log_tail=pool.log_tail if pool.status == "FAILED" else (),
        last_lines=pool.last_lines if pool.status == "FAILED" else (),
    )


def unserved_view(item: UnservedModel) -> ModelView:
    """Return what the control plane shows of a model without a pool."""
    return ModelView(
        name=item.name, version=item.version, url=item.url, engine=None, status=item.status,
        reason=item.reason, batch_size=0, max_batch_delay_ms=0, max_idle_time=0, job_queue_size=0,
    )  # fmt: skip


def self_check_of(pool: ModelPool) -> Mapping[str, object] | None:
    """Return what the newest check at load found; None when no model that runs was checked."""
    checks = [group.self_check for group in pool.groups.values() if group.self_check is not None]
    return checks[-1] if checks else None


def _why_short(pool: ModelPool) -> str | None:
    """Return how the last worker ended, while there are fewer than there always should be."""
    ready = sum(group.slots for group in pool.groups.values() if group.state is GroupState.READY)
    if pool.is_asleep or ready >= pool.plan.min_workers or not pool.journal.deaths:
        return None
    last = pool.journal.deaths[-1]
    return f"a worker ended ({last.kind}): {without_places(last.cause)}"


def _group_view(pool: ModelPool, place: Place) -> WorkerGroupView:
    workers = [
        WorkerView(
            id=group.key * 100 + slot,
            pid=group.pid,
            start_time=group.started,
            state=_state(group, slot),
            ranks=_rank_views(group),
        )
        for group in pool.groups.values()
        if group.settings.devices == place.devices
        for slot in range(group.plan_slots)
    ]
    return WorkerGroupView(
        device="+".join(place.devices), min=place.minimum, max=place.maximum, workers=tuple(workers)
    )


def _rank_views(group: WorkerGroup) -> tuple[RankView, ...]:
    if len(group.ranks) < 2:  # noqa: PLR2004  # of one rank, its pid says all
        return ()
    return tuple(RankView(rank=hello.rank, pid=hello.pid, host=hello.host) for hello in group.ranks)


def _state(group: WorkerGroup, slot: int) -> WorkerState:
    if group.state is GroupState.STARTING:
        return "starting"
    if group.state is GroupState.READY:
        return "busy" if slot < len(group.batches) else "ready"
    return "draining"


def count_states(pool: ModelPool) -> dict[str, int]:
    """Count the workers of a model by state."""
    counts: dict[str, int] = {}
    for place in pool.plan.places:
        for worker in _group_view(pool, place).workers:
            counts[worker.state] = counts.get(worker.state, 0) + 1
    return counts

"""What the models of a server share: memory, and threads of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from frame.policy.placement import Loaded
from frame.pool.model import ModelPool
from frame.pool.placer import label_of
from frame.pool.plan import ModelPlan, Place, kind_of


class Sharing:
    """Tells the placer what is loaded; it decides what has room."""

    def __init__(
        self,
        served: Callable[[], Iterable[ModelPool]],
        others: Callable[[], Iterable[ModelPool]],
        cpu_threads: int,
    ) -> None:
        """Look at pools.

        Args:
            served: those that are found by their names.
            others: those that are on their way, or ending.
        """
        self._served = served
        self._others = others
        self._cpu_threads = cpu_threads

    def loaded(self) -> Iterator[Loaded]:
        """Yield each model that has workers."""
        for pool in {*self._served(), *self._others()}:
            if pool.groups:
                yield Loaded(
                    key=label_of(pool.plan),
                    devices=tuple(name for group in pool.groups.values() for name in group.settings.devices),
                    measured_mb=_taken(pool),
                    last_used=pool.last_used,
                    leases=pool.leases,
                    may_unload=pool.plan.starts_on_demand or not pool.plan.min_workers,
                    is_leaving=pool.is_asleep or pool.is_closing,
                )

    async def unload(self, key: str) -> None:
        """End the workers of an idle model."""
        for pool in list(self._served()):
            if label_of(pool.plan) == key and not pool.leases:  # a request may have come since
                await pool.unload()

    def measured(self, plan: ModelPlan, place: Place) -> dict[str, int]:  # noqa: ARG002  # GPUs cannot be measured from here
        """Return the megabytes that a copy of a model took last."""
        found = (pool for pool in self._served() if pool.plan.name == plan.name)
        copies = (pool.copy_bytes for pool in found if pool.plan.version == plan.version)
        size = next(copies, 0)
        return {"cpu": size >> 20} if size else {}

    def spare_workers(self, plan: ModelPlan) -> int | None:
        """Return what other models' busy workers leave of the CPU threads; a maximum that was set wins."""
        if plan.is_maximum_set or not plan.is_on_cpu:
            return None
        others = (pool for pool in self._served() if label_of(pool.plan) != label_of(plan))
        busy = sum(pool.busy_workers * pool.plan.group.all_threads for pool in others if pool.plan.is_on_cpu)
        return max(0, (self._cpu_threads - busy) // plan.group.all_threads - plan.min_workers)


def _taken(pool: ModelPool) -> dict[str, int]:
    """Return the megabytes that a model's groups give back, by place: required or, on the CPU, measured."""
    needs = {place.devices: place.needs for place in pool.plan.places}
    taken: dict[str, int] = {}
    for group in pool.groups.values():
        for name in {"cpu", *group.settings.devices}:
            required = needs[group.settings.devices][kind_of(name)].required_mb
            measured = group.rss_bytes >> 20 if name == "cpu" else 0
            taken[name] = taken.get(name, 0) + max(required, measured)
    return taken

"""How many workers a model should have: what the policies say of what there is, logged and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from frame.policy.conductor import Conductor, Supply
from frame.policy.scaling import ScaleTo, ScalingLimits
from frame.pool.group import WorkerGroup
from frame.pool.metrics import ModelMetrics
from frame.pool.placer import Resources, label_of
from frame.pool.plan import ModelPlan

_log = logging.getLogger(__name__)


def scaling_limits(plan: ModelPlan) -> ScalingLimits:
    """Return the fewest and the most workers of a plan."""
    return ScalingLimits(minimum=plan.min_workers, maximum=plan.max_workers, max_idle=plan.max_idle)


class Staffing:
    """The decisions of one model; the supervisor follows them."""

    def __init__(
        self,
        policies: Conductor[WorkerGroup, Any],
        metrics: ModelMetrics,
        resources: Resources,
        clock: Callable[[], float],
    ) -> None:
        self._policies = policies
        self._metrics = metrics
        self._resources = resources
        self._clock = clock

    @property
    def has_waiting(self) -> bool:
        """Whether requests wait for a slot."""
        return len(self._policies.waiting) > 0

    def wanted(
        self, plan: ModelPlan, supply: Supply, groups: Collection[WorkerGroup], now: float
    ) -> ScaleTo | None:
        """Return how many workers there should be, None when it is right as it is."""
        supply = replace(supply, spare_workers=self._resources.spare_workers(plan))
        return self._policies.wanted_workers(now, supply, groups)

    def next_look(self, now: float) -> float | None:
        """When fewer workers may be wanted, if nothing happens before."""
        return self._policies.next_look(now)

    def followed(self, plan: ModelPlan, before: int, decision: ScaleTo) -> None:
        """Record, log and count that a decision was followed, in part at least."""
        self._policies.scaled(self._clock(), before, decision)
        self._metrics.count_scaling(decision.workers - before)
        facts = (label_of(plan), before, decision.workers, decision.reason)
        _log.info("workers_scaled model=%s from=%d to=%d reason=%s", *facts)

    def unloaded(self, plan: ModelPlan, before: int) -> None:
        """Record that an idle model's workers end because another model needs their memory."""
        self.followed(plan, before, ScaleTo(0, "it was idle, and another model needed its memory"))

"""What of a model's configuration its policies need, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from frame.policy.adaptive import AdaptiveLimits
from frame.policy.batching import BatchLimits
from frame.policy.lifecycle import RestartLimits


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """Fewest and most workers on one device, and most of them in one process."""

    minimum: int
    maximum: int
    slots_per_group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One model, as `pool.plan.ModelPlan` has it.

    Attributes:
        queue_size: requests that may wait.
        request_timeout: seconds from admission to answer.
        predict_timeout: seconds that a batch may run.
        max_idle: seconds until a worker that is not needed ends.
        retries_on_crash: requests run again whose worker died.
        shares_model: a loaded copy runs several batches at once, so that a further worker is a thread.
        starts_on_demand: nothing is started before the first request.
    """

    batching: BatchLimits
    adaptive: AdaptiveLimits | None = None
    restarts: RestartLimits
    places: tuple[PlaceLimits, ...]
    queue_size: int
    request_timeout: float
    predict_timeout: float
    max_idle: float
    retries_on_crash: bool = True
    shares_model: bool = False
    loads_in_parallel: bool = False
    starts_on_demand: bool = False

    @property
    def minimum(self) -> int:
        """Workers that are always up."""
        return sum(place.minimum for place in self.places)

    @property
    def maximum(self) -> int:
        """Most workers."""
        return sum(place.maximum for place in self.places)

"""What the policies did and why, kept for those who ask: the last batches, scalings, choices and deaths."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

KEPT_BATCHES = 256
KEPT_EVENTS = 64


@dataclass(slots=True, kw_only=True)
class BatchRecord:
    """One batch. Times are seconds of the pool's clock.

    Attributes:
        at: when it was sent.
        size: requests.
        cost: elements, padding included.
        why: why it left then and not later, a `WhyNow` or `alone`.
        waited: from the arrival of its oldest request to `at`.
        left: requests that still waited for a slot after it was sent.
        batch_size, max_delay: the limits in force.
        busy, workers: slots that ran batches, this one included, of those that were up.
        is_ahead: it was sent to wait in a worker behind the batch that ran; `busy` does not count it then.
        seconds: from the moment a slot had it until its end; None while it runs, and when its group died.
        compute: the model's own part of `seconds`.
    """

    at: float
    size: int
    cost: int
    why: str
    waited: float
    left: int
    batch_size: int
    max_delay: float
    busy: int
    workers: int
    is_ahead: bool = False
    seconds: float | None = None
    compute: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRecord:
    """A change of the number of workers: from `before` (up and starting) to `target`."""

    at: float
    before: int
    target: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRecord:
    """A change of the limits by adaptive batching."""

    at: float
    batch_size: int
    max_delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathRecord:
    """A group that ended without being asked; `jobs` were in it."""

    at: float
    kind: str
    cause: str
    jobs: int


@dataclass(slots=True)
class Journal:
    """The last records of one model, oldest first."""

    batches: deque[BatchRecord] = field(default_factory=lambda: deque(maxlen=KEPT_BATCHES))
    scalings: deque[ScaleRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    choices: deque[ChoiceRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    held_back: ScaleRecord | None = None
    """When and why workers were wanted last that could not be added; `target` is what there was."""
    deaths: deque[DeathRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

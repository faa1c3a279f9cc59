"""What the control plane sees of the server: models as plain, frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from frame.api import Signature
from frame.policy.explain_view import ExplainView
from frame.policy.traffic import TrafficRules

ModelStatus = Literal["READY", "PENDING", "FAILED"]
WorkerState = Literal["starting", "ready", "busy", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankView:
    """One process of a group of several, and the host that it runs on."""

    rank: int
    pid: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One slot of a group, as DJL Serving counts workers.

    Attributes:
        pid: of the process that holds the slot, rank 0 of several; None before it said hello.
        start_time: UTC, aware.
        ranks: the processes of the group when there are several, once all have said hello.
    """

    id: int
    pid: int | None
    start_time: datetime
    state: WorkerState
    ranks: tuple[RankView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroupView:
    """Workers of one model on one device (`cpu`, `gpu0`); `min` and `max` count workers."""

    device: str
    min: int
    max: int
    workers: tuple[WorkerView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One version of a model at one moment.

    Attributes:
        url: where it was loaded from.
        engine: name of its engine; None when none could be told.
        reason: why it is FAILED or not ready, for operators; None otherwise.
        batch_size: requests, >= 1.
        max_batch_delay_ms: milliseconds.
        max_idle_time: seconds.
        job_queue_size: requests that may wait.
        requests_in_queue: requests that wait now.
        signature: what a tensor model declared when it was loaded.
        self_check: what a check at load found.
        settings: value and source (`serving.properties:4`, `SERVING_BATCH_SIZE`, `default`) by key.
        log_tail: the last lines its workers wrote, oldest first.
        is_asleep: its workers are started by the next request, so that it needs none now.
        last_lines: those of them that clients may see.
    """

    name: str
    version: str | None
    url: str
    engine: str | None
    status: ModelStatus
    reason: str | None = None
    batch_size: int
    max_batch_delay_ms: int
    max_idle_time: int
    job_queue_size: int
    requests_in_queue: int = 0
    loaded_at_startup: bool = True
    groups: tuple[WorkerGroupView, ...] = ()
    signature: Signature | None = None
    self_check: Mapping[str, object] | None = None
    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    log_tail: tuple[str, ...] = ()
    is_asleep: bool = False
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowView:
    """One version of a workflow at one moment.

    Attributes:
        models: the names of its models, as they are found among all models.
        requests: that run now.
    """

    name: str
    version: str | None
    url: str
    status: ModelStatus
    models: tuple[str, ...]
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedModel:
    """What one version of a model is explained from."""

    name: str
    version: str | None
    view: ExplainView


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A model to serve from now on.

    Attributes:
        url: as an entry of `load_models`.
        name, version: None: as the url says.
        settings: by key of serving.properties; they win over the model's own.
    """

    url: str
    name: str | None = None
    version: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChange:
    """How many workers a model shall have from now on; None leaves a number as it is.

    Attributes:
        minimum, maximum: on each device that counts.
        device: `cpu`, `gpu`, or one of them with its number; None: all that the model is on.
    """

    minimum: int | None = None
    maximum: int | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledModel:
    """The fewest and the most workers of a model, on all of its devices together."""

    name: str
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    """One version of a trial: its last requests; times are seconds, None without a good answer."""

    requests: int
    failures: int
    median: float | None
    tail: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowView:
    """What became of the copies that a version got.

    Attributes:
        results: how many were `equal`, `different`, `failed`, `not_compared` or `skipped`.
        differences: request id and place of the last ones, oldest first.
    """

    results: Mapping[str, int]
    differences: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackView:
    """A version that lost its weight; `at` is UTC."""

    version: str
    at: datetime
    cause: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficView:
    """The traffic rules of a model and what came of them, by version."""

    rules: TrafficRules = field(default_factory=TrafficRules)
    trial: Mapping[str, TrialView] = field(default_factory=dict)
    shadows: Mapping[str, ShadowView] = field(default_factory=dict)
    rollbacks: Sequence[RollbackView] = ()


class ModelRegistry(Protocol):
    """What changes the models that are served. Members raise `FrameError`s."""

    async def register(self, wanted: Registration, *, waits: bool) -> str:
        """Serve a model, or a workflow, and return its name; `waits`: once it is up."""
        ...

    async def unregister(self, name: str, version: str | None) -> None:
        """Serve a version, a model or a workflow no longer; returns when its workers are gone."""
        ...

    async def change(self, name: str, version: str | None, settings: Mapping[str, str]) -> None:
        """Change settings of a version, or of all of a model's; returns once they are in force."""
        ...

    def set_traffic(self, name: str, rules: TrafficRules) -> None:
        """Share a model's requests among its versions by these rules from now on."""
        ...

    async def scale(
        self, name: str, version: str | None, change: WorkerChange, *, waits: bool
    ) -> Sequence[ScaledModel]:
        """Set how many workers a version, or each of a model's, has; `waits`: until they are up."""
        ...


class ModelHost(Protocol):
    """The server as the control plane sees it. All members are cheap and called on the loop's thread."""

    @property
    def is_draining(self) -> bool:
        """True from the moment the server was told to end."""
        ...

    def models(self) -> Sequence[ModelView]:
        """Every version of every model, in any order, failed ones and those of workflows included."""
        ...

    def workflows(self) -> Sequence[WorkflowView]:
        """Every version of every workflow, in any order."""
        ...

    def describe_traffic(self, name: str) -> TrafficView:
        """The traffic rules of a model; raises `ModelNotFoundError` when there is none."""
        ...

    def explain(self, name: str, version: str | None) -> ExplainedModel:
        """What a model version is explained from; without a version of the one that requests go to.

        Raises:
            ModelNotFoundError: there is none.
            ModelNotReadyError: its configuration is wrong, so that it has no records.
        """
        ...

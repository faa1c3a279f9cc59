"""Engines and models: the abstract classes that a plugin implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from frame.contract.requests import Buffer, Request, RequestError, Response, ResponseStream
from frame.contract.signatures import Signature

if TYPE_CHECKING:
    import numpy as np

    from frame.worker.codecs.images import ImageInput
    from frame.worker.padding import Padder

JobId: TypeAlias = int
Tensors: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What to load.

    Attributes:
        path: the model directory, absolute; also the worker's current directory.
        model_file: the file or folder that detection found, relative to `path`; None when unknown.
        options: an instance of the engine's `EngineSpec.options`, already validated.
        properties: every `option.*` (prefix removed) and argument of serving.properties, as strings.
        batch_size: largest number of requests `predict` will be given.
    """

    name: str
    version: str | None
    path: str
    model_file: str | None
    options: Any
    properties: Mapping[str, str]
    batch_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """Where an engine runs.

    Attributes:
        devices: `("cpu",)` or `("gpu0",)`, `("gpu0", "gpu1")`: names as this process sees them, after
            CUDA_VISIBLE_DEVICES was cut to the group's own.
        rank, world_size: 0 and 1, but for engines whose groups have several ranks.
        threads: CPU threads one model call should use, >= 1.
        slots: calls of `predict` that the server would like to overlap on one copy, >= 1.
        enter_stage: says what `load` does from now on (a few words), and how many seconds that may take
            beside `option.model_loading_timeout`.
    """

    devices: tuple[str, ...]
    rank: int = 0
    world_size: int = 1
    threads: int = 1
    slots: int = 1
    enter_stage: Callable[[str, float], None] = field(default=lambda _name, _allowed: None, repr=False)


class Model(ABC):
    """A loaded model. Slot threads call `predict`, at most `concurrency` at the same time."""

    concurrency: int = 1
    """Calls that may overlap on this copy; 1 when the model keeps state between calls."""
    signature: Signature | None = None
    """Names, dtypes and shapes, when the model has them; shown by GET /models/{name}."""
    self_check: Mapping[str, object] | None = None
    """What a check at load found, as plain JSON with a `result`; shown by GET /models/{name} and a metric."""

    @abstractmethod
    def predict(self, batch: Sequence[Request]) -> Sequence[Response | ResponseStream | RequestError]:
        """Answer every request of the batch, in order.

        A *returned* `RequestError` fails its request alone. A raised exception fails the whole batch and
        keeps the worker, except in a group of several ranks, where it ends the group.
        """

    def warm_up(self) -> None:  # noqa: B027  # optional
        """Run once in every slot thread before its first request; may raise to fail the load."""

    def close(self) -> None:  # noqa: B027  # optional
        """Free what the model holds. Idempotent."""


class TensorModel(Model):
    """A model over named arrays; decodes, groups what can be stacked, runs `forward`, splits, encodes."""

    signature: Signature
    image_input: ImageInput | None = None
    """How an image body becomes an input.

    The worker sets it from the `width`, `mean`, … of serving.properties.
    """
    padder: Padder | None = None
    """How requests of different lengths are brought to one; the worker sets it when `pad_to` is given."""

    @abstractmethod
    def forward(self, inputs: Tensors) -> Tensors:
        """Run one stacked batch.

        Args:
            inputs: C-contiguous CPU arrays of the signature's dtypes, in its order, batch on axis 0.

        Returns:
            Outputs by name, in the signature's order, CPU, batch on axis 0 with as many rows as went in.

        Raises:
            RequestError: the inputs of this batch are wrong. Any other exception: the model failed (424).
        """

    def predict(self, batch: Sequence[Request]) -> Sequence[Response | ResponseStream | RequestError]:
        """Answer each request alone, running together those of the same trailing shapes and dtypes."""
        from frame.worker.stacking import predict_tensors  # numpy: workers only

        return predict_tensors(self, batch)

    def warm_up(self) -> None:
        """Run `forward` once on one row of zeros, free dimensions 1.

        A refusal of that shape is not an error.
        """
        from frame.worker.stacking import warm_up_tensors

        warm_up_tensors(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The next bytes of a job's stream; `head` (status, headers) counts in the first chunk only."""

    job: JobId
    data: Buffer
    head: Response | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The job ended. `response` is its whole answer; None ends the stream that its chunks began."""

    job: JobId
    response: Response | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed, and only it."""

    job: JobId
    error: RequestError


class SequenceModel(Model):
    """Continuous batching: jobs join and leave between steps. One thread calls every method."""

    @abstractmethod
    def capacity(self) -> int:
        """Jobs that may join now, >= 0; when idle, the most it ever runs at once."""

    @abstractmethod
    def admit(self, job: JobId, request: Request) -> None:
        """Let a job join before the next step. Raise `RequestError` to refuse it alone."""

    @abstractmethod
    def step(self) -> Sequence[Chunk | Done | Failed]:
        """Advance all admitted jobs by one step.

        Called only while there are jobs; an exception fails them all.
        """

    @abstractmethod
    def cancel(self, job: JobId) -> None:
        """Drop a job; its place is free at the next step. Unknown jobs are ignored."""

    def digest(self) -> int:
        """Return a number, 0 to 2**64 - 1, that differs when the last step chose other tokens.

        Ranks of a group compare it before the next step; one that differs ends the group.
        """
        return 0

    def predict(self, batch: Sequence[Request]) -> Sequence[Response | ResponseStream | RequestError]:
        """Not used: the worker drives `admit` and `step`."""
        del batch
        message = f"{type(self).__name__} is driven by admit and step"
        raise TypeError(message)


class Engine(ABC):
    """One per worker process; imports its framework, loads models."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context

    @abstractmethod
    def load(self, spec: ModelSpec) -> Model:
        """Load one model. Raise `ValueError` or `RequestError` with what is wrong and what to do."""

    def slot_context(self) -> AbstractContextManager[None]:
        """Enter in each slot thread before its first call (device, stream, no-grad)."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027  # optional
        """Free what the engine holds. Idempotent."""

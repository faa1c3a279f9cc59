"""A server with whatever models a test wants to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from frame.errors import ModelNotFoundError
from frame.http.host import (
    ExplainedModel,
    ModelView,
    TrafficView,
    WorkerGroupView,
    WorkerState,
    WorkerView,
    WorkflowView,
)


@dataclass
class FakeHost:
    """Implements `frame.http.host.ModelHost`."""

    views: tuple[ModelView, ...] = ()
    flows: tuple[WorkflowView, ...] = ()
    is_draining: bool = False
    explained: tuple[ExplainedModel, ...] = ()
    traffic: TrafficView = field(default_factory=TrafficView)

    def models(self) -> Sequence[ModelView]:
        return self.views

    def workflows(self) -> Sequence[WorkflowView]:
        return self.flows

    def describe_traffic(self, name: str) -> TrafficView:
        if name not in {view.name for view in self.views}:
            message = f"Model not found: {name}"
            raise ModelNotFoundError(message)
        return self.traffic

    def explain(self, name: str, version: str | None) -> ExplainedModel:
        for explained in self.explained:
            if explained.name == name and version in {None, explained.version}:
                return explained
        message = f"Model not found: {name}"
        raise ModelNotFoundError(message)


def group(*states: WorkerState, minimum: int = 1, device: str = "cpu") -> WorkerGroupView:
    start = datetime(2024, 5, 1, 12, 30, 15, 250_900, tzinfo=UTC)
    workers = [
        WorkerView(id=number, pid=1000 + number, start_time=start, state=state)
        for number, state in enumerate(states, start=1)
    ]
    return WorkerGroupView(device=device, min=minimum, max=4, workers=tuple(workers))


def model(name: str, **changes: Any) -> ModelView:
    """A model that is READY with one worker, but for `changes`."""
    facts: dict[str, Any] = {
        "name": name,
        "version": None,
        "url": f"file:///store/{name}/",
        "engine": "onnx",
        "status": "READY",
        "batch_size": 8,
        "max_batch_delay_ms": 100,
        "max_idle_time": 60,
        "job_queue_size": 1000,
        "groups": (group("ready"),),
    }
    return ModelView(**(facts | changes))

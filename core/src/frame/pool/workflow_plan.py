"""What the pool does for one version of a workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frame.http.time_limits import Limits, time_limit
from frame.policy.workflow import Graph

_LEAST_SECONDS = 120.0  # of a workflow without models


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowLimits:
    """How long a request may take: as long as all of its steps may, one after the other."""

    predict_timeout: float
    request_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPlan:
    """One version of a workflow, ready to be served; its models are planned beside it."""

    name: str
    version: str | None
    url: str
    graph: Graph
    config: WorkflowLimits


def limits_of(configs: Sequence[Limits], calls: int) -> WorkflowLimits:
    """Return how long a workflow of so many calls may take: the longest of its models' limits for each."""
    longest = max((time_limit(None, config).seconds for config in configs), default=_LEAST_SECONDS)
    return WorkflowLimits(predict_timeout=longest * max(1, calls))

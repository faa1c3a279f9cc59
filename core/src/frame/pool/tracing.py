"""What the pool knows of a trace: a place in it for each request, without a tracing library."""

from __future__ import annotations

from typing import Protocol

TRACEPARENT = "traceparent"
TRACE_KEY = "frame.trace"
"""Where a request's place in its trace is, in the ASGI scope."""


class JobTrace(Protocol):
    """One request's, or one step's, place in a trace."""

    def properties(self) -> dict[str, str]:
        """Return what a worker gets, so that what it does can be part of the trace."""

    def step(self, name: str) -> JobTrace:
        """Return the place of a workflow's step."""

    def finish(self, times: JobTimes) -> None:
        """Write down what became of the request; called once, when it has ended."""


class JobTimes(Protocol):
    """When a request came, was sent, was begun and ended; 0.0 for what did not happen (`Job`)."""

    arrived: float
    dispatched: float
    started: float
    ended: float
    inference: float
    batch_size: int

"""For tests of models, handlers and plugins.

A real server on a free port, an engine without a framework, a model in real workers without HTTP, a clock
that stands still, and what every engine must do (which needs pytest).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from frame.testing.clock import FakeClock
from frame.testing.server import Server, ServerError, run_server, run_server_async

if TYPE_CHECKING:
    from frame.testing.compliance import EngineCompliance
    from frame.testing.requests import body_request, json_request, tensor_request
    from frame.testing.workbench import Answered, Workbench, WorkbenchError
    from frame.worker.echo import EchoEngine

_LATER = {
    "EchoEngine": "frame.worker.echo",
    "EngineCompliance": "frame.testing.compliance",
    **dict.fromkeys(("body_request", "json_request", "tensor_request"), "frame.testing.requests"),
    **dict.fromkeys(("Answered", "Workbench", "WorkbenchError"), "frame.testing.workbench"),
}

__all__ = [
    "Answered",
    "EchoEngine",
    "EngineCompliance",
    "FakeClock",
    "Server",
    "ServerError",
    "Workbench",
    "WorkbenchError",
    "body_request",
    "json_request",
    "run_server",
    "run_server_async",
    "tensor_request",
]


def __getattr__(name: str) -> Any:
    """Import what needs more than the standard library when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if name == "EngineCompliance":
        import pytest  # noqa: PLC0415

        pytest.register_assert_rewrite("frame.testing.compliance")
    return getattr(import_module(_LATER[name]), name)

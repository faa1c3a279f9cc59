"""For tests of models, handlers and plugins: a real server on a free port, and a clock that stands still."""

from frame.testing.clock import FakeClock
from frame.testing.server import Server, ServerError, run_server

__all__ = ["FakeClock", "Server", "ServerError", "run_server"]

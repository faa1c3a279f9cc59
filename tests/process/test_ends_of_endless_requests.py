"""What a server's end owes to those whose requests do not end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.process.probes import descendants
from tests.process.test_ends import assert_gone, busy_server, no_answers


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
def test_request_that_does_not_end_is_cut_after_drain_timeout(tmp_path: Path, name: str) -> None:
    """No worker's `drain_time` comes on top, and an answer that comes is no empty 500."""
    with busy_server(tmp_path, name, SERVING_DRAIN_TIMEOUT="1") as (server, _):
        below = descendants(server.pid)
        server.send_signal(signal.SIGTERM)
        server.wait_ended(8)
        assert_gone(below)
        assert no_answers(server)

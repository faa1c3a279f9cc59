"""Streams that end early leave nothing behind: no worker that is taken, no connection that stays busy."""

from __future__ import annotations

from pathlib import Path

import httpx
from frame.testing import run_server

from tests.process.probes import Gate, put_model
from tests.process.test_streams import STREAMING, open_stream


def test_piece_that_does_not_come_in_time_cuts_the_stream_and_frees_the_worker(
    tmp_path: Path,
) -> None:
    put_model(tmp_path / "store" / "stream", STREAMING, option__drain_time=1)
    gate = Gate(tmp_path)
    environ = {"SERVING_CHUNKED_READ_TIMEOUT": "0.5", "SERVING_DRAIN_TIMEOUT": "3"}
    with run_server(tmp_path / "store", environ=environ) as running:
        with open_stream(running, count=2, gates=[str(gate)]) as raw:
            gate.open()
            raw.read_until(b"000000")
            assert b"0\r\n\r\n" not in raw.read_to_end()
        good = httpx.post(f"{running.url}/predictions/stream", json={"count": 1}, timeout=10)
        assert good.text == "000000\n"

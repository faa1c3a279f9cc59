"""Reading the GPUs' memory leaves no process behind."""

from __future__ import annotations

import asyncio
import os

import pytest
from frame.pool.memory import read_memory

from tests.process.in_process import eventually


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_look_at_the_gpus_that_is_given_up_leaves_no_process(tmp_path, monkeypatch: pytest.MonkeyPatch):
    query, noted = tmp_path / "nvidia-smi", tmp_path / "pid"
    query.write_text(f"#!/bin/sh\necho $$ > {noted}.new; mv {noted}.new {noted}; exec sleep 300\n")
    query.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    async def scenario() -> None:
        reading = asyncio.ensure_future(read_memory(("cpu", "gpu0"), ("0",)))
        await eventually(noted.exists)
        reading.cancel()
        await asyncio.wait((reading,))
        assert reading.cancelled()

    asyncio.run(scenario())
    assert not is_there(int(noted.read_text()))

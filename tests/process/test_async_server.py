"""`frame.testing.run_server_async`: a real server for tests that have an event loop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from frame.testing import ServerError, run_server_async


def put_echo(store: Path) -> Path:
    """Make a store of one model; return it."""
    (store / "echo").mkdir(parents=True)
    (store / "echo" / "serving.properties").write_text("engine=echo\n")
    return store


def has_ended(pid: int) -> bool:
    """Say whether a process, which was a child of this one, is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_serves_while_the_loop_goes_on(tmp_path: Path) -> None:
    async def use() -> tuple[bytes, int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        async with run_server_async(put_echo(tmp_path)) as server, httpx.AsyncClient() as client:
            before = ticks
            answer = await client.post(f"{server.url}/predictions/echo", content=b"abc")
        ticking.cancel()
        return answer.content, before, server.pid

    content, ticks, pid = asyncio.run(use())
    assert content == b"abc"
    assert ticks > 5  # while it started
    assert has_ended(pid)


def test_a_task_that_is_cancelled_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    store = put_echo(tmp_path)

    async def use() -> None:
        async with run_server_async(store):
            raise AssertionError("it was cancelled before")

    async def cancel() -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    served = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(store) in read(path)]
    assert served == []


def read(path: Path) -> str:
    """Return a file's text, "" when its process has ended meanwhile."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def use() -> None:
        async with run_server_async(tmp_path, ["-f", "nobody.properties"]):
            raise AssertionError("it cannot start")

    with pytest.raises(ServerError, match="nobody"):
        asyncio.run(use())

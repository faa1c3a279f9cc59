"""A worker that the kernel kills for memory: named so, replaced, and the request that did it is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from frame.pool.cgroups import CGROUPS
from frame.testing import run_server

from tests.process.probes import DEADLINE, put_model, until

LIMIT_MB = 400
HUNGRY = """
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    text = inputs.get_as_string()
    if text == "hungry":
        bytearray(800 << 20)
    return Output().add(text)
"""


@contextmanager
def memory_group() -> Iterator[Path]:
    """Make a control group with little memory; skip where that is not allowed."""
    is_v1 = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if is_v1 else CGROUPS) / f"frame-test-{os.getpid()}"
    limit = folder / ("memory.limit_in_bytes" if is_v1 else "memory.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        try:
            limit.write_text(str(LIMIT_MB << 20))
            swap = folder / ("memory.memsw.limit_in_bytes" if is_v1 else "memory.swap.max")
            if swap.exists():
                swap.write_text(str(LIMIT_MB << 20) if is_v1 else "0")
        except OSError as error:
            pytest.skip(f"the control group takes no limit: {error}")
        yield folder
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), what="processes to leave the group")
        folder.rmdir()


@contextmanager
def inside(group: Path) -> Iterator[None]:
    """Let processes that are started in the block start in the group."""
    line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if is_memory(line))
    root = group.parent
    before = root / line.split(":", 2)[2].lstrip("/") / "cgroup.procs"
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        before.write_text(str(os.getpid()))


def is_memory(line: str) -> bool:
    """Tell whether a line of /proc/self/cgroup is that of the memory."""
    controllers = line.split(":", 2)[1]
    return controllers == "" if not (CGROUPS / "memory").is_dir() else "memory" in controllers.split(",")


def test_worker_that_is_killed_for_memory_is_replaced_and_told_apart(tmp_path):
    put_model(tmp_path / "store" / "m", HUNGRY, minWorkers=1, maxWorkers=1, reserved_memory_mb=50)
    with memory_group() as group, ExitStack() as stack:
        with inside(group):
            server = stack.enter_context(run_server(tmp_path / "store"))
        post = f"{server.url}/predictions/m"
        assert httpx.post(post, content="fine", timeout=DEADLINE).text == "fine"
        hungry = httpx.post(post, content="hungry", timeout=DEADLINE)
        assert hungry.status_code == 503
        assert "ended twice" in hungry.json()["message"]
        assert "out of memory" in hungry.json()["message"]
        refused = httpx.post(post, content="hungry", timeout=DEADLINE)
        assert (refused.status_code, refused.json()["type"]) == (503, "QuarantinedError")
        until(lambda: httpx.post(post, content="fine", timeout=DEADLINE).text == "fine")
        metrics = httpx.get(f"{server.url}/server/metrics", timeout=DEADLINE).text
        assert 'frame_worker_restarts_total{cause="out_of_memory",model="m",version=""} 2.0' in metrics


def test_a_model_that_does_not_fit_its_control_group_is_refused_with_the_figures(tmp_path):
    put_model(tmp_path / "store" / "m", HUNGRY, minWorkers=0, maxWorkers=1, required_memory_mb=300)
    with memory_group() as group, run_server(tmp_path / "store") as server:
        (group / "cgroup.procs").write_text(str(server.pid))
        answer = httpx.post(f"{server.url}/predictions/m", content="fine", timeout=DEADLINE)
        assert answer.status_code == 503
        message = answer.json()["message"]
        assert "needs 300 MB on cpu and 500 MB must stay free" in message
        assert f"there are {LIMIT_MB} MB in all" in message

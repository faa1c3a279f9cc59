"""Launchers of ranks: what a rank is told; that none outlives its launcher, or another rank that failed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from frame.api import LaunchRequest, launch_spawn

from tests.process.probes import DEADLINE, is_alive, until

# A rank that waits for ever once it is guarded; it writes its pid and its environment down when it is.
RANK = """
import os, sys, time
from frame.worker.guard import die_with_launcher
die_with_launcher(os.environ)
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "FRAME_LAUNCHER_PID", "FRAME_LAUNCHER_HOST", "OWN")
path = os.path.join(sys.argv[1], os.environ["RANK"])
with open(path + ".new", "w") as told:
    print(os.getpid(), *(os.environ.get(name) for name in names), file=told)
os.rename(path + ".new", path)
if sys.argv[2:] == [os.environ["RANK"]]:
    sys.exit(7)
while True:
    {wait}
"""
IN_PYTHON = "time.sleep(60)"
HOLDING_THE_LOCK = "__import__('ctypes').PyDLL(None).sleep(60)"  # PyDLL keeps the interpreter's lock

ROUTER = """
import os, subprocess, sys
command = [sys.executable, "-m", "frame.worker.launcher", "--parent", str(os.getpid())]
subprocess.run([*command, *sys.argv[1:]])
"""
MPIRUN = """
import os, subprocess, sys
places = [{**os.environ, "RANK": str(rank)} for rank in range(2)]
for rank in [subprocess.Popen([sys.executable, *sys.argv[1:]], env=place) for place in places]:
    rank.wait()
"""


@contextmanager
def launched(*argv: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a launcher of ranks as a child of the test; it is gone afterwards."""
    command = [sys.executable, "-m", "frame.worker.launcher", "--parent", str(os.getpid()), *argv]
    with subprocess.Popen(command, env={**os.environ, **environ}, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def told_of(folder: Path, ranks: int) -> list[list[str]]:
    """Wait until so many ranks have written down who they are; return it, pid first, by rank."""
    paths = [folder / str(rank) for rank in range(ranks)]
    until(lambda: all(path.exists() for path in paths))
    return [path.read_text().split() for path in paths]


def pids_of(folder: Path, ranks: int) -> list[int]:
    return [int(told[0]) for told in told_of(folder, ranks)]


def assert_gone(pids: list[int]) -> None:
    until(lambda: not any(is_alive(pid) for pid in pids))


def spawn(folder: Path, ranks: int, *argv: str, wait: str = IN_PYTHON) -> list[str]:
    """Return the arguments that start ranks of the script above."""
    script = RANK.replace("{wait}", wait)
    return ["spawn", "--ranks", str(ranks), "--", sys.executable, "-c", script, str(folder), *argv]


def test_each_rank_is_told_its_place_and_its_launcher(tmp_path: Path) -> None:
    with launched(*spawn(tmp_path, 3), OWN="kept") as launcher:
        told = told_of(tmp_path, 3)
    host = socket.gethostname()
    assert [line[1:] for line in told] == [
        [str(rank), "3", str(rank), "3", str(launcher.pid), host, "kept"] for rank in range(3)
    ]


@pytest.mark.parametrize("wait", [IN_PYTHON, HOLDING_THE_LOCK])
def test_a_killed_rank_ends_the_others_and_the_launcher_tells(tmp_path: Path, wait: str) -> None:
    with launched(*spawn(tmp_path, 3, wait=wait)) as launcher:
        pids = pids_of(tmp_path, 3)
        os.kill(pids[1], signal.SIGKILL)
        assert launcher.wait(DEADLINE) == 128 + signal.SIGKILL
        assert_gone(pids)


def test_a_rank_that_fails_ends_the_others_with_its_code(tmp_path: Path) -> None:
    with launched(*spawn(tmp_path, 2, "1")) as launcher:
        assert launcher.wait(DEADLINE) == 7
        written = [int(path.read_text().split()[0]) for path in tmp_path.glob("?")]  # rank 0 may be too late
        assert_gone(written)


def test_ranks_that_end_well_do_not_end_the_others() -> None:
    script = "import os, sys; sys.stdin.read(); print(os.environ['RANK'])"
    with launched("spawn", "--ranks", "2", "--", sys.executable, "-c", script) as launcher:
        assert launcher.wait(DEADLINE) == 0


@pytest.mark.parametrize("wait", [IN_PYTHON, HOLDING_THE_LOCK])
def test_term_ends_all(tmp_path: Path, wait: str) -> None:
    with launched(*spawn(tmp_path, 2, wait=wait)) as launcher:
        pids = pids_of(tmp_path, 2)
        launcher.terminate()
        assert launcher.wait(DEADLINE) == 128 + signal.SIGTERM
        assert_gone(pids)


@pytest.mark.parametrize("wait", [IN_PYTHON, HOLDING_THE_LOCK])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_killed_launcher_leaves_no_rank(tmp_path: Path, wait: str, *, is_stopped: bool) -> None:
    with launched(*spawn(tmp_path, 2, wait=wait)) as launcher:
        pids = pids_of(tmp_path, 2)
        if is_stopped:
            os.kill(pids[1], signal.SIGSTOP)
        launcher.kill()
        assert_gone(pids)


def test_no_rank_outlives_the_parent_of_its_launcher(tmp_path: Path) -> None:
    """As when the router is killed."""
    with subprocess.Popen([sys.executable, "-c", ROUTER, *spawn(tmp_path, 2)]) as parent:
        told = told_of(tmp_path, 2)
        parent.kill()
    assert_gone([int(told[0][0]), int(told[1][0]), int(told[0][5])])


def test_a_launcher_whose_parent_is_another_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frame.worker.launcher", "--parent", "1", *spawn(tmp_path, 1)]
    assert subprocess.run(command, check=False, timeout=DEADLINE).returncode == 1
    assert not list(tmp_path.iterdir())


def test_a_launcher_may_become_another_program_that_its_ranks_die_with(tmp_path: Path) -> None:
    *_, interpreter, flag, script, folder = spawn(tmp_path, 2)
    with launched("exec", "--", interpreter, flag, MPIRUN, flag, script, folder) as launcher:
        told = told_of(tmp_path, 2)
        assert [line[5] for line in told] == [str(launcher.pid)] * 2
        launcher.kill()
        assert_gone([int(line[0]) for line in told])


def test_a_rank_whose_launcher_is_its_grandparent_is_alive(tmp_path: Path) -> None:
    """MPICH's proxy stands between."""
    proxy = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    *_, interpreter, flag, script, folder = spawn(tmp_path, 1)
    with launched("spawn", "--ranks", "1", "--", interpreter, flag, proxy, flag, script, folder) as launcher:
        (told,) = told_of(tmp_path, 1)
        assert told[5] == str(launcher.pid)
        os.kill(int(told[0]), signal.SIGTERM)


@pytest.mark.parametrize(
    ("environ", "code"),
    [
        ({"FRAME_LAUNCHER_PID": "1"}, 1),
        ({"FRAME_LAUNCHER_PID": "1", "FRAME_LAUNCHER_HOST": "elsewhere"}, 7),
        ({}, 1),
    ],
)
def test_a_rank_believes_in_its_launcher_on_its_own_host_only(
    tmp_path: Path, environ: dict[str, str], code: int
) -> None:
    script = RANK.replace("{wait}", IN_PYTHON)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "0"],
        env={**os.environ, "RANK": "0", **environ},
        check=False,
        timeout=DEADLINE,
        capture_output=True,
    )
    assert ended.returncode == code
    assert bool(ended.stderr) == (not environ)


def test_the_spawn_launcher_is_started_with_the_workers_own_arguments() -> None:
    request = LaunchRequest(
        interpreter="/venv/python",
        arguments=("-m", "frame.worker", "--connect", "unix:/s"),
        environment={"A": "b"},
        devices=("cpu",),
        ranks=2,
        options=None,
        parent=17,
    )
    command = launch_spawn(request)
    assert command.argv == (
        "/venv/python", "-m", "frame.worker.launcher", "--parent", "17", "spawn", "--ranks", "2", "--",
        "/venv/python", "-m", "frame.worker", "--connect", "unix:/s",
    )  # fmt: skip
    assert command.environment == {"A": "b"}

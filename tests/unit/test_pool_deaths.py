"""What a group's end is called, from its exit, its connection and the kernel's counts of kills for memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from frame.pool.deaths import Exit, OutOfMemoryKills, describe_exit, explain_exit, failed_start
from frame.testing import FakeClock

KILLED = Exit(-signal.SIGKILL)


class Machine:
    """The files in which a kernel counts."""

    def __init__(self, root: Path, groups: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(self.proc / "self/cgroup", groups)
        self.write(self.proc / "vmstat", "pgfault 12\noom_kill 7\n")

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def kills(self, clock: FakeClock | None = None) -> OutOfMemoryKills:
        return OutOfMemoryKills(self.proc, self.cgroups, clock or FakeClock())


@pytest.fixture
def version_1(tmp_path: Path) -> tuple[Machine, Path]:
    """Return a machine with control groups of version 1, and the group's own count."""
    machine = Machine(tmp_path, "5:cpu:/box\n4:memory:/box\n")
    machine.write(machine.cgroups / "memory/memory.oom_control", "under_oom 0\noom_kill 3\n")
    own = machine.cgroups / "memory/box/memory.oom_control"
    return machine, machine.write(own, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")


def test_a_kill_counted_by_the_control_group_is_for_memory(version_1):
    machine, own = version_1
    kills = machine.kills()
    own.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert explain_exit(KILLED, "", kills) == (
        "out_of_memory",
        "killed by SIGKILL: out of memory (its cgroup counted a kill for memory)",
    )


def test_a_kill_counted_by_version_2_is_for_memory(tmp_path):
    machine = Machine(tmp_path, "0::/box\n")
    events = machine.write(machine.cgroups / "box/memory.events", "low 0\noom 1\noom_kill 1\n")
    kills = machine.kills()
    events.write_text("low 0\noom 4\noom_kill 3\n")
    assert kills.claim() == "its cgroup counted a kill for memory"
    assert kills.claim() == "its cgroup counted a kill for memory"
    assert kills.claim() == "", "each kill explains one end"


def test_only_the_nearest_count_counts(version_1):
    machine, own = version_1
    kills = machine.kills()
    machine.write(machine.proc / "vmstat", "oom_kill 8\n")
    (own.parent.parent / "memory.oom_control").write_text("oom_kill 4\n")
    assert kills.claim() == "", "those were other groups' processes"


def test_where_no_group_counts_the_machine_does(tmp_path):
    machine = Machine(tmp_path, "5:cpu:/box\n")
    kills = machine.kills()
    machine.write(machine.proc / "vmstat", "oom_kill 8\n")
    assert kills.claim() == "the machine counted a kill for memory"


def test_a_kill_of_long_ago_explains_nothing(version_1):
    machine, own = version_1
    clock = FakeClock()
    kills = machine.kills(clock)
    own.write_text("oom_kill 2\n")  # of a process that is none of the workers
    for _ in range(2):
        clock.advance(2.0)
        kills.sample()
    assert explain_exit(KILLED, "", kills) == ("died", "killed by SIGKILL")
    own.write_text("oom_kill 3\n")
    kills.sample()  # too soon to count
    assert kills.claim()


def test_a_kill_that_nobody_counted_is_somebodys(version_1):
    machine, _ = version_1
    assert explain_exit(KILLED, "", machine.kills()) == ("died", "killed by SIGKILL")


def test_kills_before_the_group_started_are_not_its_own(version_1):
    machine, own = version_1
    own.write_text("oom_kill 5\n")
    assert machine.kills().claim() == ""


def test_a_count_that_went_away_is_no_rise(version_1):
    machine, own = version_1
    kills = machine.kills()
    own.unlink()
    assert kills.claim() == ""


def test_where_nothing_counts_a_sigkill_may_be_for_memory(tmp_path):
    kills = OutOfMemoryKills(tmp_path, tmp_path)
    assert not kills.is_known
    assert explain_exit(KILLED, "", kills) == ("died", "killed by SIGKILL (out of memory?)")


def test_another_exit_is_no_kill_for_memory(version_1):
    machine, own = version_1
    kills = machine.kills()
    own.write_text("oom_kill 9\n")
    assert explain_exit(Exit(4), "", kills) == ("died", "exit status 4")
    assert explain_exit(Exit(-signal.SIGSEGV), "", kills) == ("died", "killed by SIGSEGV")


def test_a_process_that_had_to_be_ended_is_told_by_its_connection(version_1):
    machine, own = version_1
    kills = machine.kills()
    own.write_text("oom_kill 9\n")
    ended = Exit(-signal.SIGKILL, was_forced=True)
    assert explain_exit(ended, "the worker closed its socket", kills) == (
        "died",
        "the worker closed its socket, and its process went on",
    )
    assert explain_exit(ended, "", kills) == ("died", "the connection ended, and its process went on")


def test_an_unknown_signal_has_its_number():
    assert describe_exit(-123) == "killed by signal 123"


def test_a_start_that_fails_names_the_first_error_inside():
    end = failed_start(ExceptionGroup("tasks", [ExceptionGroup("more", [OSError("no such file")])]))
    assert (end.kind, end.cause) == ("load_failed", "start: no such file")

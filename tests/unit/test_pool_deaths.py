"""What a group's end is called, from its exit, its connection and the kernel's counts of kills for memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from frame.pool.deaths import Exit, OutOfMemoryKills, describe_exit, explain_exit, failed_start

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

    def kills(self) -> OutOfMemoryKills:
        return OutOfMemoryKills(self.proc, self.cgroups)


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
        "killed by SIGKILL: out of memory (its cgroup counted 1 oom kill)",
    )


def test_a_kill_counted_by_version_2_is_for_memory(tmp_path):
    machine = Machine(tmp_path, "0::/box\n")
    events = machine.write(machine.cgroups / "box/memory.events", "low 0\noom 1\noom_kill 1\n")
    kills = machine.kills()
    events.write_text("low 0\noom 4\noom_kill 3\n")
    assert kills.rise() == "its cgroup counted 2 oom kills"


def test_a_kill_counted_above_or_by_the_machine_is_for_memory(version_1):
    machine, own = version_1
    kills = machine.kills()
    machine.write(machine.proc / "vmstat", "oom_kill 8\n")
    assert kills.rise() == "the machine counted 1 oom kill"
    (own.parent.parent / "memory.oom_control").write_text("oom_kill 4\n")
    assert kills.rise() == "a cgroup above its own counted 1 oom kill"


def test_a_kill_that_nobody_counted_is_somebodys(version_1):
    machine, _ = version_1
    assert explain_exit(KILLED, "", machine.kills()) == ("died", "killed by SIGKILL")


def test_kills_before_the_group_started_are_not_its_own(version_1):
    machine, own = version_1
    own.write_text("oom_kill 5\n")
    assert machine.kills().rise() == ""


def test_a_count_that_went_away_is_no_rise(version_1):
    machine, own = version_1
    kills = machine.kills()
    own.unlink()
    assert kills.rise() == ""


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

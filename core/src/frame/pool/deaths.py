"""How a worker group ended: what was asked of it, or what its process died of."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frame.pool.cgroups import CGROUPS, PROC, control_groups

EndKind = Literal["drained", "load_failed", "died", "hung", "overdue", "out_of_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEnd:
    """How a group ended.

    Attributes:
        cause: for operators: `killed by SIGTERM`, `load model: ValueError: …`, `drained`.
        kind: `drained` was asked for; `load_failed` was reported by the worker and will not mend itself; the
            others may not happen again: `died` by itself, killed because it was `out_of_memory`, or ended
            here because a batch was `overdue`, or because the process itself was `hung`.
    """

    kind: EndKind
    cause: str
    has_answered: bool = False
    status: int = 500


DRAINED = GroupEnd(kind="drained", cause="drained")


@dataclass(frozen=True, slots=True)
class Exit:
    """A process's exit.

    Attributes:
        status: as of `Process.returncode`.
        was_forced: it had to be ended here, since it did not exit by itself.
    """

    status: int
    was_forced: bool = False


@dataclass(frozen=True, slots=True)
class _Counter:
    """A file with a line `oom_kill N`, and whose count it is."""

    path: Path
    owner: str

    def read(self) -> int | None:
        """Return the count; None when the system has none."""
        with suppress(OSError):
            for line in self.path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return None


class OutOfMemoryKills:
    """Processes that the kernel killed for memory since this object was made.

    The kernel counts them for each control group and for the machine, but does not say which process it was;
    so a rise is taken as the cause of a SIGKILL that nobody here sent. (`memory.failcnt` of version 1 is no
    such count: it rises each time that page cache is dropped.)
    """

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        """Read the counts as they are now, which takes less than a millisecond."""
        counters = [
            _Counter(
                group.folder / ("memory.events" if group.is_v2 else "memory.oom_control"),
                "its cgroup" if index == 0 else "a cgroup above its own",
            )
            for index, group in enumerate(control_groups("memory", proc, cgroups))
        ]
        counters.append(_Counter(proc / "vmstat", "the machine"))
        self._before = {counter: before for counter in counters if (before := counter.read()) is not None}

    @property
    def is_known(self) -> bool:
        """Whether the system counts such kills at all."""
        return bool(self._before)

    def rise(self) -> str:
        """Return a count that rose, the nearest, in words: `its cgroup counted 1 oom kill`; else nothing."""
        for counter, before in self._before.items():
            count = (counter.read() or 0) - before
            if count > 0:
                return f"{counter.owner} counted {count} oom kill{'' if count == 1 else 's'}"
        return ""


def explain_exit(ended: Exit, closed: str, kills: OutOfMemoryKills) -> tuple[EndKind, str]:
    """Return kind and cause of an end that nobody asked for.

    Args:
        closed: why the connection ended before the process did; empty when it did not.
        kills: as counted since the group's start.
    """
    if ended.was_forced:
        return "died", f"{closed or 'the connection ended'}, and its process went on"
    if ended.status != -signal.SIGKILL:
        return "died", describe_exit(ended.status)
    if rise := kills.rise():
        return "out_of_memory", f"killed by SIGKILL: out of memory ({rise})"
    return "died", "killed by SIGKILL" + ("" if kills.is_known else " (out of memory?)")


def describe_exit(status: int) -> str:
    """Say how a process ended, in words an operator searches for."""
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


def failed_start(error: BaseException) -> GroupEnd:
    """Return the end of a group whose process could not be started: the first error of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return GroupEnd(kind="load_failed", cause=f"start: {error}")

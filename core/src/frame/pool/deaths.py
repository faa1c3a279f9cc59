"""How a worker group ended: what was asked of it, or what its process died of."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from frame.pool.cgroups import CGROUPS, PROC, control_groups

_SAMPLE_SECONDS = 1.0
"""Seconds between two looks at the count; what was counted before the last two explains nothing."""

_SIGNALLED = 128
"""What launchers, as shells, add to the number of a signal."""

EndKind = Literal["drained", "load_failed", "died", "stalled", "hung", "overdue", "out_of_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEnd:
    """How a group ended.

    Attributes:
        cause: for operators: `killed by SIGTERM`, `load model: ValueError: …`, `drained`.
        kind: `drained` was asked for; `load_failed` was reported by the worker and will not mend itself; the
            others may not happen again: `died` by itself, killed because it was `out_of_memory`, or ended
            here because ranks `stalled`, a batch was `overdue`, or the process itself was `hung`.
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


class OutOfMemoryKills:
    """Processes that the kernel killed for memory, shared by all groups of a router.

    The kernel counts them for each control group, but does not say which process it was. So a rise of the
    nearest count is taken as the cause of a SIGKILL that nobody here sent, if it is of the last moments, and
    each kill that was counted explains one of them. (`memory.failcnt` of version 1 is no such count: it rises
    each time that page cache is dropped.)
    """

    def __init__(
        self, proc: Path = PROC, cgroups: Path = CGROUPS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._proc, self._cgroups = proc, cgroups
        self._clock = clock
        self._file, self._explained = self._read()
        self._newest, self._sampled = self._explained, clock()

    @property
    def is_known(self) -> bool:
        """Whether the system counts such kills at all."""
        return self._file is not None

    def sample(self) -> None:
        """Forget kills that nobody here died of; called every few seconds, it looks once a second at most."""
        now = self._clock()
        if now - self._sampled >= _SAMPLE_SECONDS:
            self._explained = max(self._explained, self._newest)
            self._newest, self._sampled = self._same_read(), now

    def claim(self) -> str:
        """Return whose count explains a kill of this moment, in words; nothing when none does."""
        if self._same_read() <= self._explained:
            return ""
        self._explained += 1
        is_machine = self._file == self._proc / "vmstat"
        return f"{'the machine' if is_machine else 'its cgroup'} counted a kill for memory"

    def _same_read(self) -> int:
        """Return the count; when it is another file's from now on, all that it has counted is old."""
        file, count = self._read()
        if file != self._file:
            self._file, self._explained = file, count
        return count

    def _read(self) -> tuple[Path | None, int]:
        """Return the file of the nearest count that there is, and the count."""
        for group in control_groups("memory", self._proc, self._cgroups):
            file = group.folder / ("memory.events" if group.is_v2 else "memory.oom_control")
            if (count := _count_of(file)) is not None:
                return file, count
        count = _count_of(self._proc / "vmstat")
        return (None, 0) if count is None else (self._proc / "vmstat", count)


def _count_of(path: Path) -> int | None:
    """Return the number behind `oom_kill`; None when the file or the line is not there."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def explain_exit(ended: Exit, closed: str, kills: OutOfMemoryKills) -> tuple[EndKind, str]:
    """Return kind and cause of an end that nobody asked for.

    Args:
        closed: why the connection ended before the process did; empty when it did not.
        kills: as the kernel counts them.
    """
    if ended.was_forced:
        return "died", f"{closed or 'the connection ended'}, and its process went on"
    if ended.status != -signal.SIGKILL:
        return "died", describe_exit(ended.status)
    if counted := kills.claim():
        return "out_of_memory", f"killed by SIGKILL: out of memory ({counted})"
    return "died", "killed by SIGKILL" + ("" if kills.is_known else " (out of memory?)")


def explain_late(limit: float, silence: float) -> tuple[EndKind, str]:
    """Return kind and cause of a group that was ended since a batch ran longer than `limit` seconds.

    Args:
        silence: seconds since the process last answered; 0 while it does.
    """
    cause = f"a batch ran longer than {limit:g} s"
    if silence:
        return "hung", f"{cause}; no heartbeat for {silence:.0f} s"
    return "overdue", f"{cause}; the process answers"


def explain_end(ended: Exit, closed: str, kills: OutOfMemoryKills, ranks: int) -> tuple[EndKind, str]:
    """Return kind and cause of a group's end that nobody asked for.

    Args:
        closed: why the first connection ended before the process did; it names the rank of several.
    """
    if ranks == 1:
        return explain_exit(ended, closed, kills)
    is_signal = _SIGNALLED < ended.status <= _SIGNALLED + signal.NSIG
    own = replace(ended, status=_SIGNALLED - ended.status) if is_signal else ended
    kind, cause = explain_exit(own, "", kills)
    return kind, f"{closed or 'the launcher ended'} ({cause})"


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

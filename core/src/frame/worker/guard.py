"""The first act of every worker and launcher: die with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1
LAUNCHER_PID = "FRAME_LAUNCHER_PID"
"""Variable: the pid of the group's launcher (mpirun, say)."""
LAUNCHER_HOST = "FRAME_LAUNCHER_HOST"
"""Variable: the name of the host where the launcher runs."""


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies, and exit at once when it is already gone.

    Ctrl-C in the router's terminal is the router's to handle, so SIGINT is ignored here.
    """
    _ask_for_death()
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_launcher(environ: Mapping[str, str]) -> None:
    """As `die_with_parent`, for a rank: its parent is the launcher, or a proxy whose parent is the launcher.

    Between MPICH's mpiexec and a rank there is a proxy, which ends its ranks when mpiexec is gone. On another
    host than the launcher's the parent is the launcher's agent there: nothing says which.

    Raises:
        ValueError: the environment does not name the launcher.
    """
    _ask_for_death()
    if environ.get(LAUNCHER_HOST, socket.gethostname()) != socket.gethostname():
        return
    launcher = environ.get(LAUNCHER_PID, "")
    if not launcher.isdecimal():
        raise ValueError(f"{LAUNCHER_PID} is not set: several ranks are started by a launcher")
    parent = os.getppid()
    if int(launcher) not in (parent, _parent_of(parent)):
        os._exit(1)


def _ask_for_death() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _parent_of(pid: int) -> int | None:
    """Return the parent of a process, None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")), None)

"""Launchers of a group of several ranks: one becomes mpirun (or what else), one starts the ranks itself.

    python -m frame.worker.launcher --parent PID exec -- ARGV…
    python -m frame.worker.launcher --parent PID spawn --ranks N -- ARGV…

Either dies with the process PID, and tells the ranks its own pid, so that each of them can die with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from frame.worker.guard import LAUNCHER_HOST, LAUNCHER_PID, die_with_parent

_SIGNALLED = 128
"""What shells add to the number of the signal that ended a process."""


def main() -> int:
    """Launch; return the exit code of the group."""
    parser = argparse.ArgumentParser(prog="frame.worker.launcher")
    parser.add_argument("--parent", required=True, type=int, help="pid that must be alive")
    ways = parser.add_subparsers(dest="way", required=True)
    spawn = ways.add_parser("spawn", help="start the ranks on this host")
    spawn.add_argument("--ranks", required=True, type=int)
    become = ways.add_parser("exec", help="become a launcher that starts the ranks")
    for way in (spawn, become):
        way.add_argument("argv", nargs="+", help="after --, what to start")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    os.environ[LAUNCHER_PID] = str(os.getpid())  # exec keeps the pid, and the wish to die with the parent
    os.environ[LAUNCHER_HOST] = socket.gethostname()
    if arguments.way == "exec":
        os.execvpe(arguments.argv[0], arguments.argv, os.environ)  # noqa: S606  # argv is the engine plugin's
    return run_ranks(arguments.argv, arguments.ranks, os.environ)


def rank_environment(environ: Mapping[str, str], rank: int, ranks: int) -> dict[str, str]:
    """Return the environment of a rank: as torch's launchers set it, for one host."""
    own = {
        "RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_RANK": rank,
        "LOCAL_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
    }
    return {**environ, **{name: str(value) for name, value in own.items()}}


def run_ranks(argv: Sequence[str], ranks: int, environ: Mapping[str, str]) -> int:
    """Start the ranks and wait until all have ended; the first that fails, or TERM, ends the others.

    Call it in the main thread of a process that has no other thread: the ranks die with the thread that
    started them.

    Returns:
        0 when every rank ended with 0; else the code of the first that failed, or 128 + its signal.
    """
    # A TERM before it is waited for ends this process, and so the ranks: they ask the kernel for that.
    running = {
        process.pid: process
        for process in (
            subprocess.Popen(argv, env=rank_environment(environ, rank, ranks), stdin=subprocess.DEVNULL)
            for rank in range(ranks)
        )
    }
    # From here on no handler interrupts: a pid is signalled before it is reaped, or not at all.
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.signal(signal.SIGCHLD, _ignore)  # one that is ignored is not delivered to sigwait
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    code = 0
    while running:
        ended = {pid: status for pid, process in running.items() if (status := process.poll()) is not None}
        for pid in ended:
            del running[pid]
        code = code or next((_exit_code(status) for status in ended.values() if status != 0), 0)
        if running and not ended and signal.sigwait(awaited) == signal.SIGTERM:
            code = code or _SIGNALLED + signal.SIGTERM
        if code != 0:
            for process in running.values():
                process.kill()
    return code


def _exit_code(status: int) -> int:
    """Return a code for the status of a process: negative is the signal that ended it."""
    return _SIGNALLED - status if status < 0 else status


def _ignore(number: int, frame: object) -> None:
    del number, frame


if __name__ == "__main__":
    sys.exit(main())

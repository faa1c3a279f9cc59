"""What each rank runs: `python -m frame_deepspeed.rank --connect … --parent …`, then Frame's worker.

Turns what the launcher says of a rank into the variables that torch and DeepSpeed read.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from frame.worker.guard import LAUNCHER_HOST, die_with_parent

_SIGNALLED = 128
"""What launchers, as shells, add to the number of a signal."""

_SOURCES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "LOCAL_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}


def rank_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_SIZE: Open MPI's or MPICH's, else as they are.

    Without LOCAL_SIZE the first call of DeepSpeed's shared-memory all-reduce is a segmentation fault.

    Raises:
        ValueError: no launcher says which rank this is.
    """
    found: dict[str, str] = {}
    for name, sources in _SOURCES.items():
        value = next((environ[source] for source in (*sources, name) if source in environ), None)
        if value is None:
            raise ValueError(f"{name} is not known: neither {' nor '.join(sources)} is set")
        found[name] = value
    found["LOCAL_WORLD_SIZE"] = found["LOCAL_SIZE"]
    return found


def extensions_folder(environ: Mapping[str, str], prefix: str) -> str:
    """Return a folder for compiled operators of this environment alone.

    torch's own is the same for all environments of a user, which then compile each other's operators again.
    """
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/tmp"), ".cache"))  # noqa: S108
    return str(Path(cache, "frame", "torch_extensions", hashlib.sha256(prefix.encode()).hexdigest()[:16]))


def main() -> int:
    """Set the variables and become a worker; on another host than the launcher's, watch one."""
    environ = {**os.environ, **rank_variables(os.environ)}
    environ.setdefault("TORCH_EXTENSIONS_DIR", extensions_folder(environ, sys.prefix))
    worker = [sys.executable, "-m", "frame.worker", *sys.argv[1:]]
    if environ.get(LAUNCHER_HOST, socket.gethostname()) != socket.gethostname():
        return watch(worker, environ)
    os.execve(sys.executable, worker, environ)  # noqa: S606  # the pid stays, which the launcher knows
    return 1


def watch(worker: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a worker on another host; when it fails, end mpirun's daemon there, its parent.

    A daemon that has lost mpirun's host does not end by itself: tried with Open MPI 5.0.11 for 10 minutes,
    its keepalive set to 4 s.
    """
    daemon = os.getppid()
    die_with_parent(daemon)
    code = subprocess.run(worker, env=environ, check=False).returncode
    if code != 0 and os.getppid() == daemon:
        os.kill(daemon, signal.SIGTERM)
    return code if code >= 0 else _SIGNALLED - code


if __name__ == "__main__":
    sys.exit(main())

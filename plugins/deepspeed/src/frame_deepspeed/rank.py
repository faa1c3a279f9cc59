"""What each rank runs: `python -m frame_deepspeed.rank --connect … --parent …`, then Frame's worker.

Turns what the launcher says of a rank into the variables that torch and DeepSpeed read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

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


def main() -> None:
    """Set the variables and become a worker."""
    environ = {**os.environ, **rank_variables(os.environ)}
    environ.setdefault("TORCH_EXTENSIONS_DIR", extensions_folder(environ, sys.prefix))
    worker = [sys.executable, "-m", "frame.worker", *sys.argv[1:]]
    os.execve(sys.executable, worker, environ)  # noqa: S606  # the pid stays, which the launcher knows


if __name__ == "__main__":
    main()

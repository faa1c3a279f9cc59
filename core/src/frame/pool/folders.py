"""Private folders of worker groups, and what routers that were killed left of theirs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_OWN = re.compile(r"frame-(?P<pid>[0-9]+)-.+")


def make_folder() -> Path:
    """Make a new folder for one group, mode 0700; its name tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"frame-{os.getpid()}-"))


def remove_left_behind(parent: Path | None = None) -> int:
    """Remove this user's folders whose router is not there any more; return how many.

    A router that ends removes its own; one that is killed cannot.
    """
    removed = 0
    for folder in (parent or Path(tempfile.gettempdir())).glob("frame-*-*"):
        match = _OWN.fullmatch(folder.name)
        if match is not None and _is_mine(folder) and not Path(f"/proc/{match['pid']}").exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _is_mine(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
    except OSError:  # it went in this moment
        return False

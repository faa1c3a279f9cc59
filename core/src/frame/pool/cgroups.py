"""The control groups of this process: where their files are, and how many cores they allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A folder with one group's files, and whether they are those of version 2."""

    folder: Path
    is_v2: bool


def control_groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[ControlGroup]:
    """Yield this process's groups for a controller (`memory`, `cpu`) and those above them, innermost first.

    Inside a container the path may be the host's; its folders are not there then, and the root counts.
    """
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_v2 = controllers == ""
        if is_v2:
            root = cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
        elif controller in controllers.split(","):
            root = cgroups / controllers if (cgroups / controllers).is_dir() else cgroups / controller
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root and root in folder.parents:
            yield ControlGroup(folder, is_v2)
            folder = folder.parent
        yield ControlGroup(root, is_v2)


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the number of cores that this process may run on, its control groups' quotas counted."""
    cores = len(os.sched_getaffinity(0))
    for group in control_groups("cpu", proc, cgroups):
        with suppress(OSError, ValueError):  # no such file, or "max": no limit
            if group.is_v2:
                quota, period = map(int, (group.folder / "cpu.max").read_text().split())
            else:
                quota = int((group.folder / "cpu.cfs_quota_us").read_text())
                period = int((group.folder / "cpu.cfs_period_us").read_text())
            if quota > 0 and period > 0:
                cores = min(cores, math.ceil(quota / period))
    return max(1, cores)

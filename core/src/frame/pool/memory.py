"""Read how much memory is free: the machine's, the control group's, and the GPUs'."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from frame.policy.placement import Memory
from frame.pool.cgroups import CGROUPS, PROC, control_groups

_log = logging.getLogger(__name__)
_MB = 1 << 20
_KB_PER_MB = 1 << 10
_UNLIMITED = 1 << 60
"""Control groups of version 1 write a number near 2**63 for no limit."""
_GPU_SECONDS = 10.0
_GPU_QUERY = (
    "nvidia-smi",
    "--query-gpu=index,uuid,memory.free,memory.total",
    "--format=csv,noheader,nounits",
)
_FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_FILES_V2 = ("memory.max", "memory.current", "inactive_file")
"""Files of a memory group: its limit, what is used, and what of that is page cache that is not in use."""


async def read_memory(places: Sequence[str], visible: Sequence[str] = ()) -> dict[str, Memory]:
    """Return what is free on each place (`cpu`, `gpu0`); None where it cannot be read.

    Args:
        visible: the system's index or UUID of each GPU, `gpu0` first.
    """
    found = {"cpu": read_cpu_memory()}
    if any(place != "cpu" for place in places):
        gpus = await _read_gpus()
        found |= {f"gpu{index}": gpus[name] for index, name in enumerate(visible) if name in gpus}
    return {place: found.get(place, Memory(free_mb=None, total_mb=None)) for place in places}


def read_cpu_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> Memory:
    """Return the machine's available memory, or what the control group has left when that is less."""
    fields = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) // _KB_PER_MB
    free, total = fields["MemAvailable"], fields["MemTotal"]
    for group in control_groups("memory", proc, cgroups):
        names = _FILES_V2 if group.is_v2 else _FILES_V1
        with suppress(OSError, ValueError):  # no such file, or "max": no limit
            limit = int((group.folder / names[0]).read_text())
            if limit < _UNLIMITED:
                used = int((group.folder / names[1]).read_text())
                used -= _stat(group.folder / "memory.stat", names[2])  # the kernel drops it when asked
                total = min(total, limit // _MB)
                free = min(free, max(0, limit - used) // _MB)
    return Memory(free_mb=free, total_mb=total)


def _stat(path: Path, name: str) -> int:
    with suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


async def _read_gpus() -> dict[str, Memory]:
    """Ask nvidia-smi; nothing when it is not there, fails, or hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_GPU_QUERY,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        _log.debug("gpu_memory_unknown reason=%s", error)
        return {}
    try:
        async with asyncio.timeout(_GPU_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        _log.warning("gpu_memory_unknown reason=nvidia-smi took longer than %g s", _GPU_SECONDS)
        return {}
    finally:
        if process.returncode is None:  # too slow, or nobody waits for it any more
            process.kill()
            await process.wait()
    return parse_gpus(output.decode("utf-8", "replace"))


def parse_gpus(text: str) -> dict[str, Memory]:
    """Read lines of `index, uuid, free, total` in megabytes, by index and by UUID; no number is None."""
    found = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:  # noqa: PLR2004  # the query's columns
            free, total = (int(part) if part.isdecimal() else None for part in parts[2:])
            found[parts[0]] = found[parts[1]] = Memory(free_mb=free, total_mb=total)
    return found

"""How much memory this process holds."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_KILOBYTE = 1 << 10


def resident_bytes(status: Path = _STATUS) -> int:
    """Return the resident memory of this process, 0 where the system does not say."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    sizes = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(next(sizes, "0")) * _KILOBYTE

"""Large bodies for loads, the models that take them, and the memory that a process holds."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path

from tests.process.load_client import Order, new_token
from tests.process.load_models import WEIGHING
from tests.process.probes import put_model

SIZE_BYTES = 16 << 20
FILLING = bytes(range(256)) * (SIZE_BYTES // 256)


def put_models(store: Path) -> None:
    """Make a model `large` that takes large bodies, in two processes, and a model `small`, an echo."""
    put_model(store / "large", WEIGHING, minWorkers=2, maxWorkers=2, slots_per_group=1)
    put_model(store / "small", engine="echo")


def large_order() -> Order:
    """Make a request of 16 MiB that begins with its token; all share the rest of their bytes."""
    token = new_token()
    checksum = zlib.crc32(FILLING, zlib.crc32(token.encode()))
    wanted = {"token": token, "length": SIZE_BYTES + len(token), "sum": checksum}
    return Order(
        token=token,
        path="/predictions/large",
        parts=(token.encode(), FILLING),
        headers=(("content-type", "application/octet-stream"),),
        is_right=lambda body: json.loads(body) == wanted,
    )


def memory_bytes(pid: int) -> int:
    """Return what a process holds: its own pages, those of files, and its memory files."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")}
    memory_files = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if str(entry.readlink()).startswith("/memfd:"):
                memory_files += entry.stat().st_blocks * 512
    return 1024 * (kib["RssAnon"] + kib["RssFile"]) + max(1024 * kib["RssShmem"], memory_files)

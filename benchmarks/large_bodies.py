"""200 bodies of 16 MiB at once: the router's memory, and what a small model's requests notice of it.

Usage: python benchmarks/large_bodies.py [--rounds 5] [--bursts 3] [--bodies 200] [--server hypercorn]

In each round a small model is asked over some connections, first with nothing else going on, then while a
process of its own sends bursts of large bodies to another model: each body on a connection of its own, all at
once. The budget `max_queued_bytes` is the default, so some bodies are refused with 503 before they are read.
Prints the 99th percentile of the small requests in both and their ratio (allowed: 3), the most memory the
router held above its idle (allowed: `max_queued_bytes`), and the answers to the large bodies. Every answer is
checked: large ones by their token, length and checksum. Ends with status 1 when one is wrong or missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from frame.testing import Server, run_server
from load import median_spread

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
MOST_BUDGET = 1 << 30  # the default of max_queued_bytes is a quarter of the memory, and at most this
SMALL_CONNECTIONS = 4
QUIET_REQUESTS = 4000


def tests_module(name: str) -> ModuleType:
    """Import a module of the tests: the load client, which keeps the accounts, and its models."""
    sys.path.insert(0, str(ROOT))
    try:
        return import_module(f"tests.process.{name}")
    finally:
        sys.path.remove(str(ROOT))


def send(url: str, bursts: int, bodies: int) -> None:
    """Send the large bodies (in a process of its own) and print the answers as JSON."""
    client, load_bodies = tests_module("load_client"), tests_module("load_bodies")
    kinds: Counter[str] = Counter()
    bad = 0
    for _ in range(bursts):
        todo = [load_bodies.large_order() for _ in range(bodies)]
        with client.Load(url, todo, connections=bodies, limit=120.0) as load:
            accounts = load.accounts()
        kinds += accounts.kinds
        bad += len(accounts.wrong) + len(accounts.unanswered) + (accounts.stray > 0)
    print(json.dumps({"kinds": kinds, "bad": bad}))


class PeakMemory:
    """The most memory that a process held while a block ran, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        memory = tests_module("load_bodies").memory_bytes
        while not self._is_over.wait(0.02):
            self.peak = max(self.peak, memory(self._pid))


def p99_ms(accounts: Any) -> float:
    """Return the 99th percentile of the latencies, of requests that were answered with success."""
    times = [answer.seconds * 1e3 for answer in accounts.answers if answer.status == 200]
    return statistics.quantiles(times, n=100)[98]


def measure(server: Server, given: argparse.Namespace) -> tuple[float, float, int, dict[str, Any], Any]:
    """Return p99 in ms without and with the bursts, the peak memory, and what both kinds of clients saw."""
    client = tests_module("load_client")
    with client.Load(
        server.url, client.orders("small", QUIET_REQUESTS), connections=SMALL_CONNECTIONS
    ) as load:
        quiet = load.accounts()
    command = [sys.executable, __file__, "--send", server.url]
    command += ["--bursts", str(given.bursts), "--bodies", str(given.bodies)]
    with (
        PeakMemory(server.pid) as memory,
        client.Load(server.url, client.orders("small"), connections=SMALL_CONNECTIONS) as load,
    ):
        large = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
        load.stop()
        busy = load.accounts()
    return p99_ms(quiet), p99_ms(busy), memory.peak, large, busy


def main() -> int:
    """Print the table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bursts", type=int, default=3, help="of large bodies in a round")
    parser.add_argument("--bodies", type=int, default=200, help="at once")
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    parser.add_argument("--send", help=argparse.SUPPRESS)  # this process sends large bodies to that server
    given = parser.parse_args()
    if given.send:
        send(given.send, given.bursts, given.bodies)
        return 0
    budget = min(MOST_BUDGET, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    bad, ratios = 0, []
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as store:
        tests_module("load_bodies").put_models(Path(store))
        with run_server(store, ["--http-server", given.server]) as server:
            idle = tests_module("load_bodies").memory_bytes(server.pid)
            print(f"{given.server}: idle {idle / MIB:.0f} MiB, max_queued_bytes {budget / MIB:.0f} MiB")
            print(f"{'p99 ms':>8} {'with':>8} {'ratio':>6} {'peak - idle MiB':>15}  answers: large; small")
            for _ in range(given.rounds):
                quiet, busy, peak, large, small = measure(server, given)
                ratios.append(busy / quiet)
                bad += large["bad"] + len(small.wrong) + len(small.unanswered)
                print(
                    f"{quiet:8.2f} {busy:8.2f} {busy / quiet:6.1f} {(peak - idle) / MIB:15.0f}  "
                    f"{large['kinds']}; {dict(small.kinds)}",
                    flush=True,
                )
    middle, spread = median_spread(ratios)
    print(f"median ratio {middle:.2f}, {spread}; bad answers {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""A burst of 10,000 requests at once on 4 workers, one of which is killed with SIGKILL every 0.5 s.

Usage: python benchmarks/burst.py [--rounds 5] [--requests 10000] [--sleep-ms 2] [--server hypercorn]

Each request has a connection of its own. All connections are open before the first request leaves, so nearly
all of the burst waits in the queue. Settings are the defaults, but `job_queue_size=20000`. Prints for each
round, on a server of its own, how many requests were sent, answered, answered rightly (with their own token,
once) and wrongly, how many had no answer, the kills, the seconds until the last answer, and the answers by
status and reason. A 503 is expected only for a request that was alone on a worker at two deaths: 0 to 3 in a
round. Ends with status 1 when a request got no answer or a wrong one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import urllib.request
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from frame.testing import Server, run_server

ROOT = Path(__file__).parents[1]
WORKERS = 4
PROPERTIES = f"job_queue_size=20000\nminWorkers={WORKERS}\nmaxWorkers={WORKERS}\n"


def tests_module(name: str) -> ModuleType:
    """Import the load client of the tests, which keeps the accounts."""
    sys.path.insert(0, str(ROOT))
    try:
        return import_module(f"tests.process.{name}")
    finally:
        sys.path.remove(str(ROOT))


def worker_pids(server: Server) -> list[int]:
    """Return the processes of the model's ready workers."""
    with urllib.request.urlopen(f"{server.url}/models/burst", timeout=30) as answer:
        (model,) = json.load(answer)[0]["models"]
    workers = [worker for group in model["workerGroups"] for worker in group["workers"]]
    return sorted({worker["pid"] for worker in workers if worker["status"] == "READY"})


def kill_while(load: Any, server: Server, chance: random.Random, every: float) -> int:
    """Kill a worker every so many seconds until the load has ended; return how many were killed."""
    kills, due = 0, time.monotonic()
    while not load.answers and load.is_running:  # the connections are being opened
        time.sleep(0.01)
    while load.is_running:
        due = max(due + every, time.monotonic())
        pids = worker_pids(server)
        if pids and load.is_running:
            with contextlib.suppress(ProcessLookupError):  # of a kill before, and not yet seen by the router
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
        while load.is_running and time.monotonic() < due:
            time.sleep(0.01)
    return kills


def burst(given: argparse.Namespace, seed: int) -> tuple[Any, int, float]:
    """Return the accounts of one burst, the kills, and the seconds until the last answer."""
    client, models = tests_module("load_client"), tests_module("load_models")
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as store:
        folder = Path(store, "burst")
        folder.mkdir()
        (folder / "model.py").write_text(models.WILLING)
        (folder / "serving.properties").write_text(PROPERTIES)
        with run_server(store, ["--http-server", given.server]) as server:
            while len(worker_pids(server)) < WORKERS:
                time.sleep(0.05)
            todo = list(client.orders("burst", given.requests, sleep=given.sleep_ms / 1000))
            with client.Load(server.url, todo, connections=given.requests, limit=100.0) as load:
                kills = kill_while(load, server, random.Random(seed), given.every) if given.every else 0
                accounts = load.accounts()
    seconds = max(answer.seconds for answer in accounts.answers)
    return accounts, kills, seconds


def main() -> int:
    """Print the table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--sleep-ms", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two kills; 0: none")
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the server's process inherits it
    print(f"{given.server}, {given.requests} connections, {WORKERS} workers, {given.sleep_ms:g} ms a request")
    print(f"{'sent':>6} {'answered':>8} {'right':>6} {'wrong':>5} {'none':>5} {'kills':>5} {'s':>6}  answers")
    is_good = True
    for seed in range(given.rounds):
        accounts, kills, seconds = burst(given, seed)
        right = sum(answer.status == 200 and answer.is_own for answer in accounts.answers)
        answered = accounts.sent - len(accounts.unanswered)
        wrong = len(accounts.wrong) + (accounts.stray > 0)
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(accounts.kinds.items()))
        print(
            f"{accounts.sent:6} {answered:8} {right:6} {wrong:5} {len(accounts.unanswered):5} {kills:5} "
            f"{seconds:6.1f}  {kinds}",
            flush=True,
        )
        is_good = is_good and accounts.sent == answered and not wrong
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

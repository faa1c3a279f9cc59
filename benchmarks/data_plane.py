"""The server itself: an echo model through Frame beside a bare ASGI echo on the same HTTP server.

Usage: python benchmarks/data_plane.py [--rounds 5] [--seconds 3]

Prints, for hypercorn and uvicorn and for 1, 32 and 256 connections, requests/s and median latency of both and
their ratio (rate) or difference (latency at one connection): medians over the rounds with the spread. Bare
and Frame are measured in turn within each round, so that a drift of the machine meets both. All of Frame's
features are at their defaults; the echo worker is a process that parses and writes the JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from frame.testing import run_server
from load import Load, free_port, median_spread, process, wrk

CONNECTIONS = (1, 32, 256)
PROPERTIES = "engine=echo\nbatch_size=32\nmax_batch_delay=0\n"


def bare_command(server: str, port: int) -> list[str]:
    """Return the command that serves the bare echo."""
    if server == "uvicorn":
        options = [
            "--port",
            str(port),
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "error",
        ]
        return [sys.executable, "-m", "uvicorn", "bare_echo:app", *options]
    return [
        sys.executable,
        "-m",
        "hypercorn",
        "bare_echo:app",
        "--bind",
        f"127.0.0.1:{port}",
        "-k",
        "uvloop",
        "-w",
        "0",
    ]


def measure(server: str, rounds: int, seconds: float) -> dict[int, list[tuple[Load, Load]]]:
    """Return pairs (bare, Frame) by number of connections."""
    found: dict[int, list[tuple[Load, Load]]] = {count: [] for count in CONNECTIONS}
    port = free_port()
    bare_url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "echo")
        model.mkdir()
        (model / "serving.properties").write_text(PROPERTIES)
        arguments = ["--http-server", server]
        with run_server(folder, arguments) as frame, process(bare_command(server, port), bare_url):
            url = f"{frame.url}/predictions/echo"
            for count in CONNECTIONS:
                wrk(bare_url, count, 1)
                wrk(url, count, 1)
                for _ in range(rounds):
                    found[count].append((wrk(bare_url, count, seconds), wrk(url, count, seconds)))
    return found


def main() -> None:
    """Print the table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], action="append")
    given = parser.parse_args()
    print(
        f"{'server':10} {'conn':>4} {'bare req/s':>11} {'frame req/s':>11} {'ratio':>6} {'spread':>11} "
        f"{'bare p50 ms':>11} {'frame p50 ms':>12} {'added ms':>8} {'frame p99 ms':>12} {'errors':>6}"
    )
    for server in given.server or ["hypercorn", "uvicorn"]:
        for count, pairs in measure(server, given.rounds, given.seconds).items():
            ratio, spread = median_spread([frame.rate / bare.rate for bare, frame in pairs])
            added, _ = median_spread([(frame.p50 - bare.p50) * 1e3 for bare, frame in pairs])
            bare, own = [bare for bare, _ in pairs], [frame for _, frame in pairs]
            bare_rate, rate = (median([load.rate for load in loads]) for loads in (bare, own))
            bare_p50, p50 = (median([load.p50 * 1e3 for load in loads]) for loads in (bare, own))
            p99 = median([load.p99 * 1e3 for load in own])
            errors = sum(load.errors for load in own)
            print(
                f"{server:10} {count:4} {bare_rate:11.0f} {rate:11.0f} {ratio:6.2f} {spread:>11} "
                f"{bare_p50:11.3f} {p50:12.3f} {added:8.3f} {p99:12.2f} {errors:6}",
                flush=True,
            )


if __name__ == "__main__":
    main()

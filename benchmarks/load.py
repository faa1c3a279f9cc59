"""Run wrk and read its report; start and end what is measured."""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BODY = '{"inputs":[1.0,2.0,3.0,4.0]}'
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: requests per second, latencies in seconds, answers that were no success."""

    rate: float
    p50: float
    p99: float
    errors: int


def wrk(url: str, connections: int, seconds: float, body: str = BODY) -> Load:
    """Send POST requests over `connections` connections for `seconds`."""
    if shutil.which("wrk") is None:
        sys.exit("benchmarks need wrk: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f"wrk.method='POST'; wrk.body='{body}'; wrk.headers['Content-Type']='application/json'\n"
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
        command += ["-s", script.name, url]
        limit = seconds + 30
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit).stdout
    found = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text)
    latency = {key: float(value) * _UNITS[unit] for key, value, unit in found}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, failed.groups())) if failed else 0)
    assert rate is not None, text
    return Load(float(rate[1]), latency["50"], latency["99"], errors)


@contextmanager
def process(command: Sequence[str], url: str) -> Iterator[None]:
    """Run a server while the block runs; it is up when `url` answers anything."""
    child = subprocess.Popen(
        command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        wait_up(url)
        yield
    finally:
        child.terminate()
        child.wait(10)


def wait_up(url: str, timeout: float = 20.0) -> None:
    """Wait until the port of `url` accepts connections."""
    host, _, port = url.split("/")[2].partition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(url: str, body: bytes, content_type: str, accept: str | None = None) -> bytes:
    """Send one POST and return the answer's body."""
    headers = {"content-type": content_type} | ({"accept": accept} if accept else {})
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def median_spread(values: Sequence[float]) -> tuple[float, str]:
    """Return the median and `lowest-highest`."""
    return statistics.median(values), f"{min(values):.3g}-{max(values):.3g}"

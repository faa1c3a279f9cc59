"""What the simulator predicts is what a real server does, within a factor of 1.5."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from frame.cli.main import main
from frame.cli.simulate import read_plan, settings_of
from frame.simulate.outcome import quantile
from frame.simulate.service import ServiceModel, read_profile
from frame.simulate.simulation import Simulation
from frame.simulate.trace import Trace, burst_trace, parse_burst, poisson_trace
from frame.testing import Server, run_server

from tests.process.probes import DEADLINE, put_model, worker_pids

FACTOR = 1.5
DELAY_MS = 50  # long beside the noise of a machine that runs clients, router and workers
BODY = json.dumps({"inputs": [1.0, 2.0, 3.0]}, separators=(",", ":")).encode()
BATCHES = {"batch_size": 8, "max_batch_delay": 10, "minWorkers": 1, "maxWorkers": 1}
# An echo model whose load takes a second, so that what a kill costs does not depend on the machine.
SLOW_LOAD = f"""
import time

from djl_python import Output

time.sleep(1)


def handle(inputs):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    time.sleep({DELAY_MS / 1000})
    output = Output()
    for index, item in enumerate(batch):
        output.add(item.get_as_json(), batch_index=index if inputs.is_batch() else None)
    return output
"""
TRACES = {
    "poisson": poisson_trace(60, 8, seed=1),
    "burst": burst_trace(parse_burst("25,200,1,2"), 9, seed=2),
    "killed": replace(poisson_trace(60, 9, seed=3), kills=(3.0,)),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Percentiles in seconds, and how many requests had no answer."""

    p50: float
    p99: float
    failed: int


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that takes 50 ms for a batch, whatever its size."""
    folder = tmp_path_factory.mktemp("store") / "echo"
    return put_model(folder, engine="echo", option__delay_ms=DELAY_MS, **BATCHES)


@pytest.fixture(scope="module")
def slow_loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that takes 50 ms for a batch and a second for a load."""
    return put_model(tmp_path_factory.mktemp("store") / "slow", SLOW_LOAD, **BATCHES)


def profile_of(model: Path) -> Path:
    """Measure a model, as its operator would; once."""
    path = model.with_suffix(".json")
    if not path.exists():
        arguments = ["--data", BODY.decode(), "--repeat", "10", "-o", str(path)]
        assert main(["profile", str(model), *arguments]) == 0
    return path


@pytest.mark.slow(60)
@pytest.mark.timeout(60)
def test_a_profile_has_the_time_of_a_batch_and_of_a_load(echo: Path) -> None:
    path = profile_of(echo)
    service = read_profile(path)
    assert [item["size"] for item in json.loads(path.read_text())["batches"]] == [1, 2, 4, 8]
    for size in (1, 3, 8):
        assert DELAY_MS / 1000 <= service.typical(size) < 2 * DELAY_MS / 1000
    assert service.overhead > 0
    assert service.load_seconds > 0


@pytest.mark.slow(60)
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["poisson", "burst"])
def test_percentiles_of_a_load_are_within_the_factor(name: str, echo: Path) -> None:
    compare(echo, TRACES[name])


@pytest.mark.slow(60)
@pytest.mark.timeout(60)
def test_percentiles_with_a_killed_worker_are_within_the_factor(slow_loader: Path) -> None:
    compare(slow_loader, TRACES["killed"])


def compare(model: Path, trace: Trace) -> tuple[Seen, Seen]:
    """Replay a trace on a server, and in the simulator with the times that were measured before."""
    simulated = simulate(model, read_profile(profile_of(model)), trace)
    with run_server(None, ["-m", str(model)]) as server:
        real = replay(server, model.name, trace)
    assert real.failed == simulated.failed == 0
    for found, measured in ((simulated.p50, real.p50), (simulated.p99, real.p99)):
        assert measured / FACTOR <= found <= measured * FACTOR, (simulated, real)
    return simulated, real


def simulate(model: Path, service: ServiceModel, trace: Trace) -> Seen:
    outcome = Simulation(settings_of(read_plan(str(model), {}, os.environ)), service, trace).run()
    return seen(outcome.latencies(), outcome.refused)


def seen(latencies: Sequence[float], failed: int) -> Seen:
    p50, p99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
    assert p50 is not None
    assert p99 is not None
    return Seen(p50, p99, failed)


def replay(server: Server, model: str, trace: Trace) -> Seen:
    """Send the trace's requests when it says, whether or not earlier ones are answered, and kill workers."""
    latencies = asyncio.run(Clients(server, model).play(trace))
    answered = sorted(seconds for seconds in latencies if seconds is not None)
    return seen(answered, len(latencies) - len(answered))


class Clients:
    """An open loop of clients; each connection carries one request at a time."""

    def __init__(self, server: Server, model: str) -> None:
        self._server = server
        self._model = model
        address = urlsplit(server.url)
        self._address = (address.hostname, address.port)
        head = f"POST /predictions/{model} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def play(self, trace: Trace) -> list[float | None]:
        """Return the seconds of each request; None for those that did not succeed."""
        self._idle = [await asyncio.open_connection(*self._address) for _ in range(64)]
        self._start = time.perf_counter()
        async with asyncio.timeout(trace.seconds + DEADLINE), asyncio.TaskGroup() as tasks:
            for at in trace.kills:
                tasks.create_task(self._kill(at))
            sent = []
            for arrival in trace.arrivals:
                await self._reach(arrival.at)
                sent.append(tasks.create_task(self._send(arrival.at)))
        for _, writer in self._idle:
            writer.close()
        return [task.result() for task in sent]

    async def _reach(self, at: float) -> None:
        if (left := self._start + at - time.perf_counter()) > 0:
            await asyncio.sleep(left)  # the trace's own time

    async def _send(self, at: float) -> float | None:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        seconds = time.perf_counter() - self._start - at
        self._idle.append((reader, writer))
        is_right = head.startswith(b"HTTP/1.1 200 ") and json.loads(body) == json.loads(BODY)
        return seconds if is_right else None

    async def _kill(self, at: float) -> None:
        await self._reach(at)
        for pid in await asyncio.to_thread(worker_pids, self._server, self._model):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

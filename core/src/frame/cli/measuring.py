"""Measure a model behind a server of its own: its batches by their size, the rest of a request, a load."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from frame.errors import FrameError
from frame.simulate.service import Profile, SizeTimes
from frame.testing.server import Server, ServerError, run_server

_DELAY_MS = 50
"""max_batch_delay while measuring: long enough for the requests of a batch to come together."""
_TRIES = 3
"""Rounds for one batch that counts: a round counts when its requests ran together."""
_POLL_SECONDS = 0.01
_LOADS = 5
_SLOW_LOAD = 5.0
_WARM_UP = 2
_SAMPLE = re.compile(r"(frame_\w+)\{[^}]*\} (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        model: folder or archive.
        name: of the model.
        device: where its only worker runs, as in `load_on_devices`.
        sizes: batch sizes, ascending.
        repeat: batches of each size.
        timeout: seconds for a load or an answer.
    """

    model: str
    name: str
    device: str
    sizes: Sequence[int]
    body: bytes
    content_type: str
    repeat: int
    timeout: float


class MeasureError(FrameError):
    """The model cannot be measured: its log or the answer says why, and who can fix it."""

    status = 500


class _Sums(NamedTuple):
    """Sums over all requests since the server's start."""

    requests: float
    request_seconds: float
    queue_seconds: float
    batches: float


def measure(subject: Subject) -> Profile:
    """Start a server with the model alone, measure, end it.

    Raises:
        MeasureError: the model does not load, or does not answer the request.
    """
    settings = {
        "batch_size": subject.sizes[-1],
        "max_batch_delay": _DELAY_MS,
        "load_on_devices": subject.device,
        **{f"{kind}{key}": 1 for kind in ("", "cpu.", "gpu.") for key in ("minWorkers", "maxWorkers")},
        "batching": "fixed",
        "load_on_demand": "false",
    }
    entry = f"{subject.name}={os.path.abspath(subject.model)}?{urlencode(settings)}"  # noqa: PTH100  # keeps links
    arguments = ["--host", "127.0.0.1", "-m", entry]
    try:
        with run_server(None, arguments, timeout=subject.timeout) as server:
            return _measure(server, subject)
    except ServerError as error:
        raise MeasureError(f"{subject.model}: {error}") from error


def _measure(server: Server, subject: Subject) -> Profile:
    with _clients(server, subject) as clients:
        for _ in range(_WARM_UP):
            clients.send(1)
            clients.send(subject.sizes[-1])
        overhead, batches = [], []
        for size in subject.sizes:
            rounds = _rounds(server, clients, size, subject.repeat)
            batches.append(SizeTimes(size, tuple(seconds for seconds, _ in rounds)))
            if size == 1:
                overhead = [outside for _, outside in rounds]
    return Profile(
        model=subject.name,
        batches=tuple(batches),
        overhead=tuple(overhead),
        load_seconds=_load_seconds(server, subject),
    )


def _rounds(server: Server, clients: _Clients, size: int, repeat: int) -> list[tuple[float, float]]:
    """Return of each batch its seconds, and the seconds of a request outside of queue and worker."""
    rounds: list[tuple[float, float]] = []
    for _ in range(repeat * _TRIES):
        before = _sums(server)
        latencies = clients.send(size)
        after = _sums(server)
        if after.batches - before.batches == 1 and after.requests - before.requests == size:
            inside = (after.request_seconds - before.request_seconds) / size
            queued = (after.queue_seconds - before.queue_seconds) / size
            rounds.append((inside - queued, sum(latencies) / size - inside))
        if len(rounds) == repeat:
            return rounds
    if not rounds:
        raise MeasureError(f"{size} requests at once never ran as one batch; a smaller --batch-size may")
    return rounds


class _Clients:
    """Connections that are kept open, each with a thread."""

    def __init__(self, server: Server, subject: Subject, pool: ThreadPoolExecutor) -> None:
        self._subject = subject
        self._pool = pool
        address = urlsplit(server.url)
        self._connections = [
            http.client.HTTPConnection(address.hostname or "", address.port, timeout=subject.timeout)
            for _ in range(subject.sizes[-1])
        ]

    def send(self, count: int) -> list[float]:
        """Send that many requests at once; return the seconds of each.

        Raises:
            MeasureError: an answer is no success.
        """
        return list(self._pool.map(self._send, self._connections[:count]))

    def _send(self, connection: http.client.HTTPConnection) -> float:
        headers = {"content-type": self._subject.content_type}
        started = time.perf_counter()
        connection.request("POST", f"/predictions/{self._subject.name}", self._subject.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - started
        if answer.status != http.HTTPStatus.OK:
            text = body[:500].decode(errors="replace")
            raise MeasureError(
                f"the model answers {answer.status}: {text.strip()}; see --data and --content-type"
            )
        return seconds

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


@contextmanager
def _clients(server: Server, subject: Subject) -> Iterator[_Clients]:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(subject.sizes[-1]))
        clients = _Clients(server, subject, pool)
        stack.callback(clients.close)
        yield clients


def _load_seconds(server: Server, subject: Subject) -> float:
    """Kill the worker; return the seconds until the next takes batches, the median of five when short."""
    seconds: list[float] = []
    while len(seconds) < _LOADS and (not seconds or seconds[0] < _SLOW_LOAD):
        with _clients(server, subject) as clients:
            clients.send(1)  # a worker that has answered is replaced at once
        old = _ready_workers(server, subject)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        started = time.perf_counter()
        while not (_ready_workers(server, subject) - old):
            if time.perf_counter() - started > subject.timeout:
                raise MeasureError(f"no worker came back in {subject.timeout:g} s\n{server.log()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def _ready_workers(server: Server, subject: Subject) -> set[int]:
    (entry,) = json.loads(_get(server, f"/models/{subject.name}", subject.timeout))
    groups = [group for model in entry["models"] for group in model["workerGroups"]]
    return {worker["pid"] for group in groups for worker in group["workers"] if worker["status"] == "READY"}


def _sums(server: Server) -> _Sums:
    found = dict(_SAMPLE.findall(_get(server, "/server/metrics", _SLOW_LOAD).decode()))
    return _Sums(
        requests=float(found["frame_request_seconds_count"]),
        request_seconds=float(found["frame_request_seconds_sum"]),
        queue_seconds=float(found["frame_queue_wait_seconds_sum"]),
        batches=float(found["frame_batch_size_count"]),
    )


def _get(server: Server, path: str, timeout: float) -> bytes:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()

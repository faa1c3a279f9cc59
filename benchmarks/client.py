"""A closed loop of HTTP/1.1 clients: each connection sends the same request again once it has the answer.

Raw asyncio protocols: the client shares a core with the router, and a full HTTP library would take more of it
than the router does.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import uvloop

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_WARM_BATCHES = 2
_LEAST_BATCHES = 6
_GRACE = 60.0  # seconds in which what is under way must be answered


@dataclass(slots=True)
class Burst:
    """What the clients of one loop saw.

    Attributes:
        stamps: when each answer was complete, in order, until the clients stopped sending.
        errors: answers that were no success.
    """

    batch: int
    stamps: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """Answers per second, over whole batches after the warm-up.

        The answers of a batch come together. From the last of one batch to the last of another is a whole
        number of batches, so that short loops are not coarse.
        """
        first = _WARM_BATCHES * self.batch - 1
        count = (len(self.stamps) - 1 - first) // self.batch * self.batch
        return count / (self.stamps[first + count] - self.stamps[first])


def send_for(seconds: float, url: str, head: dict[str, str], body: bytes, *, batch: int) -> Burst:
    """Send POST requests over two connections per row of a batch, so that the next batch always waits.

    Args:
        seconds: until the clients stop, which they do not before some batches are answered.

    Raises:
        ConnectionError: the server closed a connection.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send_for(seconds, url, _request(url, head, body), batch))


def _request(url: str, head: dict[str, str], body: bytes) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in head.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _send_for(seconds: float, url: str, request: bytes, batch: int) -> Burst:
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(url).netloc.partition(":")
    burst = Burst(batch)
    started = time.perf_counter()
    ends = [loop.create_future() for _ in range(2 * batch)]
    for end in ends:
        make = partial(_Connection, request, burst, started + seconds, end)
        await loop.create_connection(make, host, int(port))
    async with asyncio.timeout(seconds + _GRACE):
        await asyncio.gather(*ends)
    return burst


class _Connection(asyncio.Protocol):
    """One kept-open connection with one request under way."""

    def __init__(self, request: bytes, burst: Burst, stop: float, end: asyncio.Future[None]) -> None:
        self._request = request
        self._burst = burst
        self._stop = stop
        self._end = end
        self._head = b""
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what is missing of the answer; a body is not kept."""
        if self._missing < 0:
            self._head += data
            split = self._head.find(b"\r\n\r\n")
            if split < 0:
                return
            status, length = _STATUS.match(self._head), _LENGTH.search(self._head)
            if status is None or length is None:
                self._end.set_exception(ValueError(f"not an answer with a length: {self._head[:200]!r}"))
                self._transport.abort()
                return
            self._burst.errors += status[1] != b"200"
            self._missing = int(length[1]) + split + 4 - len(self._head)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._take_end()

    def _take_end(self) -> None:
        now = time.perf_counter()
        if now >= self._stop and len(self._burst.stamps) >= _LEAST_BATCHES * self._burst.batch:
            self._end.set_result(None)
            self._transport.close()
            return
        self._burst.stamps.append(now)
        self._head, self._missing = b"", -1
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._end.done():
            self._end.set_exception(exc or ConnectionResetError("the server closed a connection"))

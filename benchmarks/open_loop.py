"""Clients that come at random and do not wait for each other's answers: an open loop of HTTP/1.1 requests.

A closed loop slows down with the server and so hides how long its queue would get. Here each request has a
time at which it is meant to leave, and its latency counts from that time, whatever kept it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request; times are seconds since the loop began.

    Attributes:
        ended: when its answer was complete; when it was given up for one without an answer.
        status: 0 without an answer.
    """

    intended: float
    ended: float
    status: int = 0

    @property
    def latency(self) -> float:
        """Seconds from the intended time to the answer; at least so many without one."""
        return self.ended - self.intended


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Return times of independent arrivals, `rate` a second on average, for so many seconds."""
    chance = random.Random(seed)
    times = [chance.expovariate(rate)]
    while times[-1] < seconds:
        times.append(times[-1] + chance.expovariate(rate))
    return times[:-1]


def ask_at(times: list[float], url: str, body: bytes, *, grace: float) -> list[Asked]:
    """Send a POST request at each of the times (seconds from now) and return what became of them.

    Args:
        grace: seconds after the last one in which answers are waited for.

    Raises:
        ExceptionGroup: the server closed a connection, or its answer had no length.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_OpenLoop(url, body).ask_at(times, grace))


class _OpenLoop:
    """Connections that are kept: a request takes one that is free or opens another."""

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._free: list[_Ends] = []
        self._opened: list[_Ends] = []

    async def ask_at(self, times: list[float], grace: float) -> list[Asked]:
        """Send all, wait for the answers, close all connections."""
        clock = asyncio.get_running_loop().time
        began = clock()
        end = times[-1] + grace
        asked = [Asked(intended=at, ended=end) for at in times]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(began + end), asyncio.TaskGroup() as tasks:
                for one in asked:
                    await asyncio.sleep(began + one.intended - clock())
                    tasks.create_task(self._ask(one, began))
        for _, writer in self._opened:
            writer.transport.abort()
        return asked

    async def _ask(self, one: Asked, began: float) -> None:
        ends = await self._connection()
        reader, writer = ends
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise ValueError(f"not an answer with a length: {head!r}")
        await reader.readexactly(int(length[1]))
        one.status, one.ended = int(head.split()[1]), asyncio.get_running_loop().time() - began
        self._free.append(ends)

    async def _connection(self) -> _Ends:
        while self._free:
            ends = self._free.pop()
            if not ends[0].at_eof():  # the server closes what was idle for long
                return ends
        ends = await asyncio.open_connection(*self._address)
        self._opened.append(ends)
        return ends

"""A load client that keeps accounts: every request that was sent, every answer, and whether it was its own.

Each request has a token of its own, in its body and as its `x-request-id`. An answer must come with that id,
and a successful one must hold that token and no other. Connections are raw HTTP/1.1 on asyncio: thousands of
them fit in one thread, and nothing retries, pools or hides what the server did.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import uvloop

TOKEN = re.compile(rb"token-[0-9a-f]{16}")
CONNECTS = 200  # connections that are opened at the same time; more would overflow the listener's backlog
FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request.

    Attributes:
        parts: the body; written one after the other without being joined, so orders may share large ones.
        is_right: tells whether the body of a successful answer is this request's; by default by its token.
    """

    token: str
    path: str
    parts: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...] = ()
    is_right: Callable[[bytes], bool] | None = None

    def head(self) -> bytes:
        """Return request line and headers."""
        length = sum(map(len, self.parts))
        fields = {"content-type": "application/json", "x-request-id": self.token, "content-length": length}
        lines = [f"{name}: {value}\r\n" for name, value in (fields | dict(self.headers)).items()]
        return f"POST {self.path} HTTP/1.1\r\nhost: test\r\n{''.join(lines)}\r\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for an order; `status` is 0 when nothing whole came, and `failure` says why."""

    order: Order
    seconds: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""

    @property
    def kind(self) -> str:
        """Return the status and an error's type, `503 CapacityError`; or the exception that came instead."""
        if not self.status:
            return self.failure.partition(":")[0]
        if self.status < 300 or not self.body:  # 507 of a handler has no body, as in DJL Serving
            return str(self.status)
        return f"{self.status} {json.loads(self.body).get('type', '')}".strip()  # a handler's 424 has none

    @property
    def is_own(self) -> bool:
        """Tell whether this is the answer to its own order, and to no other."""
        if self.headers.get("x-request-id") != self.order.token:
            return False
        if self.status != 200:
            return not TOKEN.search(self.body)
        if self.order.is_right is not None:
            return self.order.is_right(self.body)
        return set(TOKEN.findall(self.body)) == {self.order.token.encode()}


def new_token() -> str:
    """Return a token that no other order has."""
    return f"token-{secrets.token_hex(8)}"


def order(model: str, *, headers: dict[str, str] | None = None, **work: object) -> Order:
    """Make a request with a token of its own that tells a model what to do."""
    token = new_token()
    body = json.dumps({"token": token, **work}).encode()
    return Order(
        token=token,
        path=f"/predictions/{model}",
        parts=(body,),
        headers=tuple((headers or {}).items()),
    )


def orders(
    model: str, count: int | None = None, *, headers: dict[str, str] | None = None, **work: object
) -> Iterator[Order]:
    """Make so many requests of the same work, or no end of them."""
    numbers = itertools.count() if count is None else range(count)
    return (order(model, headers=headers, **work) for _ in numbers)


@dataclass(frozen=True, slots=True)
class Accounts:
    """All that was sent and all that came back.

    Attributes:
        stray: bytes that came although nothing was asked, as a second answer would.
    """

    sent: int
    answers: tuple[Answer, ...]
    stray: int

    @property
    def kinds(self) -> Counter[str]:
        """Count the answers by status and type."""
        return Counter(answer.kind for answer in self.answers)

    @property
    def wrong(self) -> list[Answer]:
        """Return the answers that are not their order's."""
        return [answer for answer in self.answers if answer.status and not answer.is_own]

    @property
    def unanswered(self) -> list[Answer]:
        """Return what ended without an answer."""
        return [answer for answer in self.answers if not answer.status]

    def of(self, kind: str) -> list[Answer]:
        """Return the answers of a kind."""
        return [answer for answer in self.answers if answer.kind == kind]

    def assert_settled(self, *kinds: str) -> None:
        """Hold that each request had one answer, its own, of one of these kinds."""
        assert not self.unanswered, (self.kinds, [answer.failure for answer in self.unanswered[:3]])
        assert not self.wrong, (len(self.wrong), self.wrong[:2])
        assert self.stray == 0
        tokens = {answer.order.token for answer in self.answers}
        assert self.sent == len(self.answers) == len(tokens)
        assert set(self.kinds) <= set(kinds), (self.kinds, self._first_of_others(kinds))

    def _first_of_others(self, kinds: tuple[str, ...]) -> list[bytes]:
        return [answer.body for answer in self.answers if answer.kind not in kinds][:3]


class Load:
    """A load in a thread of its own, while the test does what it does; entered and left as a block.

    All connections are open before the first request leaves. Each has one request under way at a time.

    Attributes:
        answers: those that have come so far.
    """

    def __init__(self, url: str, todo: Iterable[Order], *, connections: int, limit: float = 15.0) -> None:
        target = urlsplit(url)
        self._address = str(target.hostname), int(target.port or 80)
        self._todo = iter(todo)
        self._count = connections
        self._limit = limit  # seconds until a request counts as unanswered
        self._thread = threading.Thread(target=self._run, name="load")
        self._error: BaseException | None = None
        self._sent = self._stray = 0
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Tell whether requests are still under way."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send nothing more; what is under way goes on."""
        self._todo = iter(())

    def accounts(self) -> Accounts:
        """Wait until every request has ended."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return Accounts(self._sent, tuple(self.answers), self._stray)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._send_all())
        except Exception as error:  # noqa: BLE001  # it is raised again in the test's thread
            self._error = error

    async def _send_all(self) -> None:
        lanes = [_Lane(self._address, self._limit) for _ in range(self._count)]
        gate = asyncio.Semaphore(CONNECTS)

        async def prepare(lane: _Lane) -> None:
            async with gate:
                await lane.open()

        await asyncio.gather(*map(prepare, lanes))
        await asyncio.gather(*map(self._work, lanes))
        self._stray = sum(await asyncio.gather(*(lane.end() for lane in lanes)))

    async def _work(self, lane: _Lane) -> None:
        while (todo := next(self._todo, None)) is not None:
            self._sent += 1
            self.answers.append(await lane.ask(todo))


class _Lane:
    """One connection; opened again when it has ended."""

    def __init__(self, address: tuple[str, int], limit: float) -> None:
        self._address = address
        self._limit = limit
        self._stray = 0
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection's ends."""
        if self._ends is None:
            self._ends = await asyncio.open_connection(*self._address)
        return self._ends

    async def ask(self, order: Order) -> Answer:
        """Send a request and wait for its answer, or for what happens instead."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._limit):
                reader, writer = await self.open()
                writer.writelines((order.head(), *order.parts))
                status, headers, body = await _read_answer(reader)
        except FAILURES as error:
            self._drop()
            failure = f"{type(error).__name__}: {error}"
            return Answer(order=order, seconds=time.perf_counter() - started, failure=failure)
        seconds = time.perf_counter() - started
        if headers.get("connection", "").lower() == "close" or writer.transport.get_write_buffer_size():
            self._drop()  # the second: it was refused before all of its body was sent
        return Answer(order=order, seconds=seconds, status=status, headers=headers, body=body)

    async def end(self) -> int:
        """Close, and return how many bytes came that nobody had asked for."""
        if self._ends is None:
            return 0
        reader, writer = self._ends
        try:
            async with asyncio.timeout(self._limit):
                writer.write_eof()
                return len(await reader.read())
        except ConnectionError:  # the server had closed it
            return 0
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._ends is not None:
            self._ends[1].transport.abort()
            self._ends = None


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status = 100
    while status < 200:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split()[1])
    fields = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, await _read_chunks(reader)
    return status, headers, await reader.readexactly(int(headers.get("content-length", "0")))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(pieces)

"""Ranks that a test plays: real sockets and the real wire, no process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from frame.wire.addresses import TcpAddress, UnixAddress, parse_address
from frame.wire.frames import FrameDecoder, frame_header
from frame.wire.messages import HelloHead, Kind, LoadedHead, LoadFailedHead, PongHead, to_json

ELSEWHERE = "another-host"
"""The host that played ranks name: the router must not open, let alone kill, the test's own process."""


class FakeRank:
    """One connection to a group's socket.

    Attributes:
        got: messages so far: kind, head, body.
        progress: what it answers to pings; None leaves them without an answer.
        is_closed: the router closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got: list[tuple[Kind, dict[str, Any], bytes]] = []
        self.progress: int | None = 0
        self.is_closed = False
        self._writer = writer
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def connect(cls, address: str) -> FakeRank:
        """Connect and say nothing."""
        match parse_address(address):
            case UnixAddress(path):
                return cls(*await asyncio.open_unix_connection(path))
            case TcpAddress(host, port):
                return cls(*await asyncio.open_connection(host, port))

    @classmethod
    async def join(cls, address: str, token: str, rank: int, size: int, **hello: Any) -> FakeRank:
        """Connect and say hello."""
        made = await cls.connect(address)
        made.say_hello(token, rank, size, **hello)
        return made

    def say_hello(self, token: str, rank: int, size: int, **hello: Any) -> None:
        """Say which rank of how many this is."""
        facts: dict[str, Any] = {"pid": 1000 + rank, "host": ELSEWHERE, "python": "3"} | hello
        if rank == 0:
            facts = {"link": "tcp:10.0.0.1:1", "master_port": 2} | facts
        self.tell(Kind.HELLO, HelloHead(token=token, rank=rank, world_size=size, **facts))

    def tell(self, kind: Kind, head: object, body: bytes = b"") -> None:
        """Send a message."""
        encoded = json.dumps(head, default=to_json).encode()
        self.write(frame_header(kind, encoded, len(body)) + body)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    def report_loaded(self, **loaded: Any) -> None:
        """Say that the model is loaded."""
        self.tell(Kind.LOADED, LoadedHead(**({"slots": 1} | loaded)))

    def report_failure(self, message: str) -> None:
        """Say that the model did not load."""
        self.tell(Kind.LOAD_FAILED, LoadFailedHead(stage="load model", status=500, message=message))

    def of_kind(self, kind: Kind) -> list[dict[str, Any]]:
        """Return the heads of the messages of a kind."""
        return [head for found, head, _ in self.got if found is kind]

    async def wait_for(self, kind: Kind, count: int = 1) -> dict[str, Any]:
        """Return the head of the last message of a kind, once there are so many."""
        async with asyncio.timeout(10):
            while len(self.of_kind(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of_kind(kind)[-1]

    async def wait_closed(self) -> None:
        """Wait until the router has closed the connection."""
        async with asyncio.timeout(10):
            await asyncio.wait((self._reading,))
        assert self.is_closed

    async def close(self) -> None:
        """Go away."""
        self._writer.close()
        self._reading.cancel()
        await asyncio.wait((self._reading,))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = FrameDecoder()
        try:
            while data := await reader.read(1 << 16):
                for frame in decoder.feed(data):
                    kind = Kind(frame.kind)
                    self.got.append((kind, json.loads(frame.head), bytes(frame.body)))
                    if kind is Kind.PING and self.progress is not None:
                        self.tell(Kind.PONG, PongHead(self.progress))
                    self._changed.set()
        except ConnectionError:
            pass
        self.is_closed = True
        self._writer.close()

"""Bodies that nobody reads: dropped at one pace for all, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from frame.http.lingering import Lingering, Pace


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer instead of passing."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()
        select = self._selector.select

        def jump(timeout: float | None = None) -> list[Any]:
            self._now += timeout or 0.0
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self._now


class Writing(asyncio.Protocol):
    """The protocol that wrote the answer."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(f"lost {exc}")

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


class Client:
    """A transport and, in its place as the writer's, the client behind it: it sends whenever it is read."""

    def __init__(self, size_bytes: int, piece_bytes: int = 50_000) -> None:
        self.left = size_bytes
        self.protocol: Any = Writing()
        self.before = self.protocol
        self._piece_bytes = piece_bytes
        self._is_read = True
        self.is_closed = self.is_misused = False
        self._loop = asyncio.get_running_loop()

    @property
    def transport(self) -> Client:
        return self

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        assert not self._is_read, "uvloop takes a new protocol's way of reading when it begins to read"
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self.is_misused = self.is_closed  # uvloop raises
        self._is_read = True
        self._loop.call_soon(self._send)

    def _send(self) -> None:
        size = min(self.left, self._piece_bytes, len(self.protocol.get_buffer(-1)))
        self.left -= size
        if size and self._is_read:
            self.protocol.buffer_updated(size)


def _run(story: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


def _now() -> float:
    return asyncio.get_running_loop().time()


def test_moments_of_all_connections_together_keep_the_pace() -> None:
    pace = Pace()
    moments = [pace.next_moment(10.0, 32_000) for _ in range(100)]
    assert moments[0] == pytest.approx(10.0001)
    assert moments[-1] == pytest.approx(10.01)
    assert moments == sorted(moments)
    assert pace.next_moment(20.0, 32_000) == pytest.approx(20.0001), "time without bodies is not saved up"


def test_bodies_are_dropped_to_their_end_and_each_ends_after_a_silence() -> None:
    async def story() -> None:
        pace = Pace()
        clients = [Client(1_000_000) for _ in range(20)]
        lingering = [Lingering(client, pace) for client in clients]  # type: ignore[arg-type]
        await asyncio.gather(*(one.ended for one in lingering))
        assert [client.left for client in clients] == [0] * 20
        assert 5.0 <= _now() < 5.2

    _run(story)


def test_client_that_ends_is_not_waited_for() -> None:
    async def story() -> None:
        client = Client(0)
        lingering = Lingering(client, Pace())  # type: ignore[arg-type]
        assert lingering.eof_received()  # the owner closes
        await lingering.ended
        assert _now() == 0.0

    _run(story)


def test_client_that_never_stops_is_left_after_half_a_minute() -> None:
    async def story() -> None:
        client = Client(1 << 50)
        lingering = Lingering(client, Pace())  # type: ignore[arg-type]
        await lingering.ended
        assert _now() == pytest.approx(30.0, abs=0.1)
        left = client.left
        lingering.buffer_updated(1)  # on its way when it ended
        await asyncio.sleep(10.0)
        assert client.left == left, "it was read on"

    _run(story)


def test_connection_that_closes_meanwhile_is_not_read_on() -> None:
    async def story() -> None:
        client = Client(1 << 30)
        lingering = Lingering(client, Pace())  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        client.is_closed = True
        await asyncio.sleep(0.01)
        lingering.connection_lost(OSError("reset"))
        await lingering.ended
        assert client.before.heard == ["lost reset"]
        assert not client.is_misused

    _run(story)


def test_writing_protocol_hears_of_its_buffer() -> None:
    async def story() -> None:
        client = Client(0)
        lingering = Lingering(client, Pace())  # type: ignore[arg-type]
        lingering.pause_writing()
        lingering.resume_writing()
        assert client.before.heard == ["pause", "resume"]
        lingering.connection_lost(None)

    _run(story)

"""Who is let into a group of ranks: hellos in any order, strangers, numbers that cannot be."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from frame.pool.hellos import MAX_HELLO_BYTES, MAX_STRANGERS
from frame.pool.ranks import Ranks
from frame.wire.frames import HEADER, WIRE_VERSION, Frame, frame_header
from frame.wire.messages import Kind

from tests.fake_ranks import ELSEWHERE, FakeRank
from tests.process.in_process import eventually

TOKEN = "the group's"  # of a test


class Gathering:
    """Ranks that gather at a socket, and what their listener was told."""

    def __init__(self, listener: socket.socket, size: int) -> None:
        self.told: list[tuple[int, str]] = []
        name = listener.getsockname()
        self.address = f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"
        self.size = size
        self.ranks = Ranks("m:1", size, TOKEN, 1.0, self)
        self.task = asyncio.ensure_future(self.ranks.gather(listener))
        self.played: list[FakeRank] = []

    async def connect(self) -> FakeRank:
        self.played.append(await FakeRank.connect(self.address))
        return self.played[-1]

    async def join(self, rank: int, token: str = TOKEN, **hello: object) -> FakeRank:
        made = await self.connect()
        made.say_hello(token, rank, **({"size": self.size} | hello))
        return made

    async def complete(self) -> None:
        async with asyncio.timeout(10):
            await self.task

    def rank_frame(self, rank: int, frame: Frame, mapped: list[memoryview]) -> None:
        self.told.append((rank, Kind(frame.kind).name))

    def rank_closed(self, rank: int, reason: str) -> None:
        self.told.append((rank, reason))


@asynccontextmanager
async def gathering(folder: Path | None, size: int) -> AsyncIterator[Gathering]:
    """Listen in a folder, or on a port of this host."""
    with socket.socket(socket.AF_UNIX if folder else socket.AF_INET) as listener:
        listener.setblocking(False)
        listener.bind(str(folder / "s") if folder else ("127.0.0.1", 0))
        listener.listen(2 * MAX_STRANGERS)
        made = Gathering(listener, size)
        try:
            yield made
        finally:
            made.task.cancel()
            await asyncio.wait((made.task,))
            made.ranks.close()
            made.ranks.close()
            for rank in made.played:
                await rank.close()


@pytest.fixture(params=["unix", "tcp"])
def folder(request, tmp_path) -> Path | None:
    return tmp_path if request.param == "unix" else None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_ranks_say_hello_in_any_order(folder, order):
    async def scenario() -> None:
        async with gathering(folder, 3) as group:
            for rank in order[:2]:
                await group.join(rank)
            assert (await asyncio.wait((group.task,), timeout=0.05))[0] == set()
            await group.join(order[2])
            await group.complete()
            assert group.ranks.missing == []
            assert [group.ranks.by_number[rank].hello.pid for rank in range(3)] == [1000, 1001, 1002]
            assert group.ranks.passes_descriptors == (folder is not None)
            assert group.told == []

    asyncio.run(scenario())


def test_ranks_that_connect_at_once_are_all_let_in(folder):
    async def scenario() -> None:
        for _ in range(20):
            async with gathering(folder, 8) as group:
                await asyncio.gather(*(group.join(rank) for rank in range(8)))
                await group.complete()
            (folder / "s").unlink() if folder else None

    asyncio.run(scenario())


def test_a_message_is_known_by_its_rank_and_so_is_a_connection_that_ends(folder):
    async def scenario() -> None:
        async with gathering(folder, 2) as group:
            ranks = [await group.join(rank) for rank in (1, 0)]
            await group.complete()
            ranks[0].report_loaded()
            await ranks[0].close()
            await eventually(lambda: len(group.told) == 2)
            assert group.told == [(1, "LOADED"), (1, "the worker closed its socket")]

    asyncio.run(scenario())


def test_a_wrong_token_is_refused_and_keeps_nobody_out(folder, caplog):
    async def scenario() -> None:
        async with gathering(folder, 2) as group:
            await group.join(0)
            stranger = await group.join(1, token="another")
            await stranger.wait_closed()
            assert group.ranks.missing == [1]
            await group.join(1)
            await group.complete()
            assert group.told == []

    asyncio.run(scenario())
    assert "rank_refused group=m:1 reason=wrong token" in caplog.text
    assert TOKEN not in caplog.text


def header(kind: int, head: int, body: int, version: int = WIRE_VERSION, descriptors: int = 0) -> bytes:
    return HEADER.pack(version, kind, descriptors, head, body)


@pytest.mark.parametrize(
    "data",
    [
        header(Kind.HELLO, MAX_HELLO_BYTES + 1, 0),
        header(Kind.HELLO, 2, 1 << 30),
        header(Kind.HELLO, 2, 0, descriptors=1),
        header(Kind.HELLO, 2, 0, version=9),
        frame_header(Kind.LOADED, b'{"slots":1}', 0),
        frame_header(Kind.HELLO, b'{"token":1}', 0),
        frame_header(Kind.HELLO, b"\xff", 0),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_hello_is_refused_before_more_of_it_is_read(folder, data):
    async def scenario() -> None:
        async with gathering(folder, 1) as group:
            stranger = await group.connect()
            stranger.write(data)
            await stranger.wait_closed()
            await group.join(0)
            await group.complete()

    asyncio.run(scenario())


def test_a_hello_may_come_in_pieces(folder):
    async def scenario() -> None:
        async with gathering(folder, 1) as group:
            rank = await group.connect()
            pieces: list[bytes] = []
            rank.write = pieces.append  # type: ignore[method-assign]  # of this object alone
            rank.say_hello(TOKEN, 0, 1)
            del rank.write
            for byte in b"".join(pieces):
                rank.write(bytes((byte,)))
                await asyncio.sleep(0)
            await group.complete()

    asyncio.run(scenario())


def test_those_who_say_nothing_are_turned_out_for_others_the_oldest_first(folder):
    async def scenario() -> None:
        async with gathering(folder, 1) as group:
            silent = [await group.connect() for _ in range(MAX_STRANGERS + 1)]
            await silent[0].wait_closed()
            assert not any(stranger.is_closed for stranger in silent[1:])
            await group.join(0)
            await group.complete()
            for stranger in silent:
                await stranger.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({"rank": 1}, "another process says that it is rank 1"),
        ({"rank": 0, "size": 1}, "it says that it is rank 0 of 1, not of 2"),
        ({"rank": 2}, "it says that it is rank 2 of 2, not of 2"),
        ({"rank": -1}, "it says that it is rank -1 of 2, not of 2"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_ends_the_group(folder, hello, reason):
    async def scenario() -> None:
        async with gathering(folder, 2) as group:
            first = await group.join(1)
            await eventually(lambda: group.ranks.missing == [0])
            wrong = await group.join(**hello)
            await wrong.wait_closed()
            assert group.told == [(hello["rank"], reason)]
            assert group.ranks.missing == [0]
            assert not first.is_closed

    asyncio.run(scenario())


def pid_of(descriptor: int) -> int:
    """Return the pid behind a descriptor of a process."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def test_a_process_is_known_by_the_kernel_and_over_tcp_by_the_token_it_was_started_with(folder):
    """The pids that are said are wrong; the test's own process was not started with the token."""

    async def scenario() -> None:
        async with gathering(folder, 2) as group:
            await group.join(0, host=ELSEWHERE)
            await group.join(1, host=socket.gethostname(), pid=os.getpid())
            await group.complete()
            descriptors = [group.ranks.by_number[rank].descriptor for rank in (0, 1)]
            if folder is None:
                assert descriptors == [-1, -1]
                return
            for descriptor in descriptors:
                assert pid_of(descriptor) == os.getpid()
                assert select.select([descriptor], [], [], 0)[0] == []  # it has not ended

    asyncio.run(scenario())

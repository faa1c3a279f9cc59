"""Pieces: small ones, each its connection's own."""

from __future__ import annotations

import asyncio

import uvloop
from frame.http.pieces import PIECE_BYTES, Pieces

BODY = bytes(range(256)) * 4096
DEADLINE = 10.0


class Recorded(asyncio.StreamReaderProtocol):
    """A stream's protocol that keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader())
        self.pieces: list[bytes] = []
        self.heard: list[str] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost")
        self.ended.set_result(None)


def test_bodies_that_come_together_arrive_whole_in_small_pieces() -> None:
    async def story() -> None:
        scratch = memoryview(bytearray(PIECE_BYTES))
        streams: list[Recorded] = []

        def make() -> Pieces:
            streams.append(Recorded())
            return Pieces(streams[-1], scratch)

        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(8)]
        for number, writer in enumerate(writers):
            writer.write(bytes([number]) + BODY)
            writer.write_eof()
        await asyncio.wait_for(asyncio.gather(*(stream.ended for stream in streams)), DEADLINE)
        for writer in writers:
            writer.close()
        server.close()
        bodies = {b"".join(stream.pieces) for stream in streams}
        assert bodies == {bytes([number]) + BODY for number in range(8)}
        assert max(len(piece) for stream in streams for piece in stream.pieces) <= PIECE_BYTES
        assert all(stream.heard == ["made", "eof", "lost"] for stream in streams)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def test_stream_hears_of_its_writing_buffer() -> None:
    async def story() -> None:
        stream = Recorded()
        pieces = Pieces(stream, memoryview(bytearray(PIECE_BYTES)))
        pieces.pause_writing()
        pieces.resume_writing()
        assert stream.heard == ["pause", "resume"]

    with asyncio.Runner() as runner:
        runner.run(story())

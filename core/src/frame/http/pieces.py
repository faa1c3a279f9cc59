"""What a connection reads, in small pieces: uvloop brings an `asyncio.Protocol` up to 256 KiB at once."""

from __future__ import annotations

import asyncio

PIECE_BYTES = 64 * 1024


class Pieces(asyncio.BufferedProtocol):
    """Stands before a stream's protocol, which hears all that happens.

    Invariant: a connection is given at most `PIECE_BYTES` at once, so that many bodies that begin together
    take a quarter of the memory and of the time before any of them is refused.
    """

    def __init__(self, stream: asyncio.StreamReaderProtocol, scratch: memoryview) -> None:
        """Stand before `stream`.

        Args:
            scratch: memory that all connections of a listener share; what is in it is copied at once.
        """
        self._stream = stream
        self._scratch = scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self._stream.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the memory for the next bytes."""
        del sizehint
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what came."""
        self._stream.data_received(bytes(self._scratch[:nbytes]))

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._stream.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._stream.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._stream.connection_lost(exc)

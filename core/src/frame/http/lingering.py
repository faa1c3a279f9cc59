"""The rest of a body that nobody reads: taken to nowhere, slowly, so that its client can read the answer.

Closing with unread bytes makes the kernel reset the connection, and the client may lose the answer that says
why (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from typing import cast

_BYTES_PER_SECOND = 320e6  # of all refused bodies of a listener: 200 of 16 MiB are gone within ten seconds
_SCRATCH_BYTES = 64 * 1024
_SILENCE_TIMEOUT = 5.0  # seconds without a byte, nginx's lingering_timeout
_TOTAL_TIMEOUT = 30.0  # seconds, nginx's lingering_time


class Pace:
    """The moments at which refused bodies may be read on, one connection after the other.

    Without it a round of the loop would read a piece of each of them, and requests would wait meanwhile.

    Attributes:
        scratch: memory that all of them share; what is in it is lost.
    """

    def __init__(self) -> None:
        self._free_at = 0.0
        self.scratch = bytearray(_SCRATCH_BYTES)

    def next_moment(self, now: float, size_bytes: int) -> float:
        """Return the loop time at which a connection may read on after a piece of `size_bytes`."""
        self._free_at = max(now, self._free_at) + size_bytes / _BYTES_PER_SECOND
        return self._free_at


class Lingering(asyncio.BufferedProtocol):
    """Takes over a connection whose answer was written, and drops what still comes.

    Invariants:
        A refused body takes no memory of its own.
        `ended` is done when the client has ended, was silent for too long or took too long altogether.
        The protocol before hears what concerns writing and the end of the connection.
    """

    def __init__(self, writer: asyncio.StreamWriter, pace: Pace) -> None:
        self._loop = asyncio.get_running_loop()
        transport = cast("asyncio.Transport", writer.transport)  # it reads as well: a socket
        self._transport = transport
        self._before = cast("asyncio.Protocol", transport.get_protocol())  # transports have one
        self._pace = pace
        self._end_at = self._loop.time() + _TOTAL_TIMEOUT
        self._timer = self._loop.call_later(_SILENCE_TIMEOUT, self._end)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Give the memory in which the next bytes are lost."""
        del sizehint
        return self._pace.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Read on when it is this connection's moment."""
        now = self._loop.time()
        self._transport.pause_reading()
        if now >= self._end_at:
            self._end()
        if not self.ended.done():
            self._timer.cancel()
            self._timer = self._loop.call_at(self._pace.next_moment(now, nbytes), self._read_on)

    def eof_received(self) -> bool:
        """End; the connection is closed by its owner."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._end()
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the protocol before."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol before."""
        self._before.resume_writing()

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._timer = self._loop.call_later(_SILENCE_TIMEOUT, self._end)
            self._transport.resume_reading()

    def _end(self) -> None:
        self._timer.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

"""Hypercorn's protocol machines, mended where an answer or a connection would be lost (0.18)."""

from __future__ import annotations

from typing import Any

import h11
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamReset
from h2.exceptions import ProtocolError
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Response, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from frame.http.connection_limits import header_size

_HEADERS_TOO_LARGE = 431


class H11Machine(H11Protocol):  # type: ignore[misc]  # hypercorn is not followed by mypy
    """HTTP/1.1.

    Invariants:
        An answer that comes before the end of its request's body says that the connection closes.
        The head of an answer is written together with the first bytes of its body: one system call, and one
        wake-up of the client, instead of two. ASGI wants a head to wait for the body anyway.
    """

    _head = b""

    @property
    def has_begun_headers(self) -> bool:
        """Whether a part of the next request's headers has come."""
        return bool(self.connection.trailing_data[0])

    @property
    def is_body_unread(self) -> bool:
        """Whether the client is still sending a body that nobody reads."""
        return self.connection.their_state is h11.SEND_BODY

    async def _create_stream(self, request: Any) -> None:
        # h11 looks at the size of headers that are not whole: those that come in one read may be larger.
        if header_size(request.target, request.headers) > self.config.h11_max_incomplete_size:
            await self._send_error_response(_HEADERS_TOO_LARGE)
            await self.send(Closed())
        else:
            await super()._create_stream(request)

    async def stream_send(self, event: Any) -> None:
        """Send one event of the answer."""
        if isinstance(event, Response) and self.is_body_unread:
            event.headers.append((b"connection", b"close"))
        await super().stream_send(event)

    async def _send_h11_event(self, event: Any) -> None:
        try:
            data = self._head + self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
        else:
            self._head = b""
            await self.send(RawData(data=data))


class H2Machine(H2Protocol):  # type: ignore[misc]  # hypercorn is not followed by mypy
    """HTTP/2, in which one stream's end is no other stream's."""

    has_begun_headers = False  # what comes between streams may be anything, and has no time of its own
    is_body_unread = False  # streams are reset one by one

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Now, not when the client has acknowledged the setting.
        self.connection.decoder.max_header_list_size = self.config.h2_max_header_list_size

    async def handle(self, event: Any) -> None:
        """Take bytes, or the end of the connection, which wakes answers that wait for the client's window."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: Any) -> None:
        """Send one event of an answer; reset the stream when the app broke off, or the client would wait."""
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            if buffer is not None and not buffer.complete:
                await self._reset(event.stream_id)
                await buffer.close()
        await super().stream_send(event)

    async def _reset(self, stream_id: int) -> None:
        try:
            self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        except ProtocolError:
            return  # the client or the connection has gone
        await self._flush()

    async def _handle_events(self, events: list[Any]) -> None:
        # One at a time: each may await, and a stream may end meanwhile.
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                # The rest of a body whose request was answered: the connection's window must be given back,
                # or the other streams starve. Hypercorn raises KeyError here, which ends all of them.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                await super()._handle_events([event])
            if isinstance(event, StreamReset):  # Hypercorn tells the end of its own streams alone
                await self.send(Updated(idle=self.idle))
        await self._flush()

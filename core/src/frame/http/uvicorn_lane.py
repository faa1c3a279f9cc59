"""Uvicorn: the faster HTTP/1.1 lane, with limits on request headers and without its signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from socket import socket
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from frame.http.connection_limits import ConnectionLimits, header_size
from frame.http.lingering import Pace
from frame.http.listening import BACKLOG
from frame.http.servers import Listener

_DATE_INTERVAL = 1.0  # seconds between updates of the Date header
_AFTER_CANCEL = 1.0  # seconds for cancelled requests to end

_log = logging.getLogger(__name__)


async def run_uvicorn(listener: Listener) -> None:
    """Accept and serve connections until `listener.stop` is set; then end as `servers.serve` promises."""
    config = Config(
        listener.app,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # malformed requests are warnings there: any client could fill the log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=listener.graceful_timeout,  # type: ignore[arg-type]  # it may be a float
    )
    config.load()
    server = _Server(config, listener)
    try:
        await server.serve(sockets=list(listener.sockets))
    finally:
        await server.cut()


class _Server(Server):
    """Uvicorn's server, ended by an event instead of signals."""

    def __init__(self, config: Config, listener: Listener) -> None:
        super().__init__(config)
        self._listener = listener
        self._pace = Pace()
        self.servers = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Accept connections, then say so."""
        del sockets  # the listener's, to which uvicorn's own function would give no time for handshakes
        loop, context = asyncio.get_running_loop(), self._listener.context
        for sock in self._listener.sockets:
            server = await loop.create_server(
                self._make_protocol,
                sock=sock,
                backlog=BACKLOG,
                ssl=context,
                ssl_handshake_timeout=self._listener.limits.tls_handshake_timeout if context else None,
            )
            self.servers.append(server)
        self.started = True
        self._listener.ready()

    def _make_protocol(self) -> _Protocol:
        return _Protocol(
            self._pace,
            self._listener.limits,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )

    async def main_loop(self) -> None:
        """Keep the Date header current until the stop event."""
        is_stopped = False
        while not is_stopped:
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_INTERVAL):
                    is_stopped = await self._listener.stop.wait()

    async def cut(self) -> None:
        """Cancel the requests that are still under way and drop all connections."""
        for server in self.servers:
            server.close()
        late = set(self.server_state.tasks)
        for task in late:
            task.cancel()
        if late:
            _log.warning("requests_cut requests=%d after=%.1f", len(late), self._listener.graceful_timeout)
            await asyncio.wait(late, timeout=_AFTER_CANCEL)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(HttpToolsProtocol):
    """One connection, with what uvicorn leaves open: limits on header bytes and on the time they take.

    Invariants:
        A timer runs exactly while no request is under way; it ends the connection at `_deadline`.
        Fields that are not whole, of headers or of the trailers after a body, are at most `max_header_size`
        and one read.
    """

    _in_headers = False
    _are_fields_too_large = False
    _has_advanced = False  # whether the last read brought more than fields
    _field_bytes = 0  # in reads that brought nothing else
    _deadline = 0.0  # loop time

    def __init__(self, pace: Pace, limits: ConnectionLimits, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._pace = pace
        self._limits = limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin a connection; its first request must arrive as soon as any later one."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + self._limits.keep_alive_timeout
        self._watch()

    def on_message_begin(self) -> None:
        """Begin the headers of a request."""
        super().on_message_begin()
        self._in_headers = True
        self._deadline = self.loop.time() + self._limits.header_timeout

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too large."""
        self._in_headers = False
        self._has_advanced = True
        if header_size(self.url, self.headers) > self._limits.max_header_size:
            self._are_fields_too_large = True
            raise ValueError("headers too large")  # becomes send_400_response
        super().on_headers_complete()
        self.headers = []  # trailers are no headers of the request, which has begun

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        self._has_advanced = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Free what came of a body that was not read, then go on."""
        self._free_body()
        super().on_response_complete()
        self._unset_keepalive_if_required()
        if not self._in_headers:
            self._deadline = self.loop.time() + self._limits.keep_alive_timeout
        self._watch()
        if self.transport.is_closing():
            self._abort_unless_below(math.inf)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; the garbage collector, which finds the connection late, finds no body."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._free_body()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._has_advanced = False
        super().data_received(data)
        self._field_bytes = 0 if self._has_advanced else self._field_bytes + len(data)
        if self.transport.is_closing():
            return
        if self._field_bytes > self._limits.max_header_size:
            self._are_fields_too_large = True
            self.send_400_response("")
            return
        self._watch()
        if self.cycle is not None and self.cycle.response_complete and not self._in_headers:
            self._drop_slowly(len(data))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP (400), or has too large headers (431), and close."""
        if self._are_fields_too_large:
            self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
        else:
            super().send_400_response(msg)

    def timeout_keep_alive_handler(self) -> None:
        """Close; what was written is dropped when the client takes nothing of it any more."""
        super().timeout_keep_alive_handler()
        self._abort_unless_below(math.inf)

    def _abort_unless_below(self, size_bytes: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= size_bytes:
            self.transport.abort()
        elif left:
            self.loop.call_later(self._limits.flush_timeout, self._abort_unless_below, left)

    def _free_body(self) -> None:
        # In a pipeline `cycle` is a later request than the one that was answered.
        if self.cycle is not None and (self.cycle.response_complete or self.cycle.disconnected):
            self.cycle.body = bytearray()

    def _drop_slowly(self, size_bytes: int) -> None:
        """Read on later: what came belongs to a request that was answered, and is lost."""
        self.flow.pause_reading()
        self.loop.call_at(self._pace.next_moment(self.loop.time(), size_bytes), self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _watch(self) -> None:
        """Let the timer run if no request is under way."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_at(self._deadline, self.timeout_keep_alive_handler)

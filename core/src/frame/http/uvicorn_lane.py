"""Uvicorn: the faster HTTP/1.1 lane, with limits on request headers and without its signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from socket import socket
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from frame.http.lingering import Pace
from frame.http.listening import BACKLOG
from frame.http.servers import HEADERS_MAX_BYTES, KEEP_ALIVE, Listener

_DATE_INTERVAL = 1.0  # seconds between updates of the Date header
_AFTER_CANCEL = 1.0  # seconds for cancelled requests to end

_log = logging.getLogger(__name__)


async def run_uvicorn(listener: Listener) -> None:
    """Accept and serve connections until `listener.stop` is set; then end as `servers.serve` promises."""
    config = Config(
        listener.app,
        http=partial(_Protocol, Pace()),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # malformed requests are warnings there: any client could fill the log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE),
        timeout_graceful_shutdown=listener.graceful_timeout,  # type: ignore[arg-type]  # it may be a float
    )
    config.load()
    config.ssl = listener.context
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
        self.servers = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Accept connections, then say so."""
        await super().startup(sockets)
        self._listener.ready()

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
    """One connection, with what uvicorn leaves open: a limit on header bytes and on the time they take."""

    _in_headers = True
    _are_headers_too_large = False
    _header_bytes = 0  # of the headers being received, in earlier chunks
    _chunk_bytes = 0
    _deadline = 0.0  # loop time at which the headers being received must be complete

    def __init__(self, pace: Pace, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._pace = pace

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin a connection; its first request must arrive as soon as any later one."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + KEEP_ALIVE
        self._watch_headers()

    def on_message_begin(self) -> None:
        """Begin the headers of a request."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        self._deadline = self.loop.time() + KEEP_ALIVE

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too large."""
        self._in_headers = False
        # Adding up is needed only when enough bytes have come, which may be body as well.
        if self._header_bytes + self._chunk_bytes > HEADERS_MAX_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEADERS_MAX_BYTES:
                self._are_headers_too_large = True
                raise ValueError("headers too large")  # becomes send_400_response
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Free what came of a body that was not read, then go on."""
        self._free_body()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; the garbage collector, which finds the connection late, finds no body."""
        super().connection_lost(exc)
        self._free_body()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self.cycle is not None and self.cycle.response_complete and not self._in_headers:
            self._drop_slowly(len(data))
        elif self._in_headers and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > HEADERS_MAX_BYTES:
                self._are_headers_too_large = True
                self.send_400_response("")
            else:
                self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP (400), or has too large headers (431), and close."""
        if self._are_headers_too_large:
            self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
        else:
            super().send_400_response(msg)

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

    def _watch_headers(self) -> None:
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_at(self._deadline, self.timeout_keep_alive_handler)

"""Hypercorn: connections of our own around its protocol machines, which speak HTTP/1.1 and HTTP/2.

Hypercorn's own connection is not used, because in 0.18

- an app that answers before it has read a long body leaves its connection waiting on a full queue for ever;
- two tasks are started and cancelled per request to watch for idleness, a sixth of a short request's time;
- a pipelined request after an answer with `connection: close` leaves the connection waiting for ever;
- the graceful end has no deadline on Python 3.12 and above.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from h2.exceptions import ProtocolError
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from frame.http.hypercorn_machines import H2Machine, H11Machine
from frame.http.lingering import Lingering, Pace
from frame.http.listening import BACKLOG
from frame.http.pieces import PIECE_BYTES, Pieces
from frame.http.request_events import RequestEvents
from frame.http.servers import H2_MAX_STREAMS, Listener

_READ_BYTES = 64 * 1024
_BUFFER_BYTES = 16 * 1024  # asyncio stops reading at twice that
_NEVER = 1 << 62

_log = logging.getLogger(__name__)


async def run_hypercorn(listener: Listener) -> None:
    """Accept and serve connections until `listener.stop` is set; then end as `servers.serve` promises."""
    lane = _Lane(listener)
    loop = asyncio.get_running_loop()
    scratch = memoryview(bytearray(PIECE_BYTES))
    async with asyncio.TaskGroup() as group:

        def make_protocol() -> Pieces:
            stream = asyncio.StreamReaderProtocol(
                asyncio.StreamReader(_BUFFER_BYTES), lambda reader, writer: lane.accept(group, reader, writer)
            )
            return Pieces(stream, scratch)

        servers = [
            await loop.create_server(
                make_protocol,
                sock=sock,
                backlog=BACKLOG,
                ssl=listener.context,
                ssl_handshake_timeout=listener.limits.tls_handshake_timeout if listener.context else None,
            )
            for sock in listener.sockets
        ]
        try:
            listener.ready()
            await listener.stop.wait()
        finally:
            for server in servers:
                server.close()
        await lane.drain()


class _Lane:
    """What the connections of one listener share.

    Invariants:
        `connections` holds exactly those whose task is not done.
        After `drain` all of them have been told to end, and none is added.
    """

    def __init__(self, listener: Listener) -> None:
        self.app = ASGIWrapper(listener.app)
        self.limits = listener.limits
        self.config = _Config(listener.limits.max_header_size)
        self.context = WorkerContext(None)
        self.connections: dict[_Connection, asyncio.Task[None]] = {}
        self.pace = Pace()
        self._graceful_timeout = listener.graceful_timeout

    @property
    def is_ending(self) -> bool:
        """Whether connections end as soon as they are idle."""
        return bool(self.context.terminated.is_set())

    def accept(
        self, group: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Start a connection's task in `group`."""
        if self.is_ending:  # its TLS handshake outlasted the listener
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        task = group.create_task(connection.run())
        self.connections[connection] = task
        task.add_done_callback(lambda _: self.connections.pop(connection, None))

    async def drain(self) -> None:
        """End idle connections now, busy ones after their answers, all of them by the deadline."""
        await self.context.terminated.set()
        for connection in list(self.connections):
            connection.end_if_idle()
        tasks = set(self.connections.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._graceful_timeout)
        if late:
            _log.warning("requests_cut connections=%d after=%.1f", len(late), self._graceful_timeout)
        for task in late:
            task.cancel()


class _Config(Config):  # type: ignore[misc]  # hypercorn is not followed by mypy
    """Hypercorn's settings, with the Date header made once a second."""

    h2_max_concurrent_streams = H2_MAX_STREAMS
    include_server_header = False
    # Closing after n requests would cut the other streams of an HTTP/2 connection.
    keep_alive_max_requests = _NEVER
    errorlog = logging.getLogger("frame.http.hypercorn")

    def __init__(self, max_header_size: int) -> None:
        super().__init__()
        self.h11_max_incomplete_size = max_header_size
        self.h2_max_header_list_size = max_header_size
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._second:
            self._second, self._headers = now, super().response_headers(protocol)
        return self._headers


class _Connection:
    """One client connection: bytes in, protocol machine, bytes out.

    Invariants:
        The idle timer runs exactly while no request is under way; a request begins with its whole headers.
        It runs for `keep_alive_timeout`, and over HTTP/1.1 for `header_timeout` once headers have begun.
        `run` ends after every app call of the connection, and what was written is flushed or dropped.
    """

    def __init__(self, lane: _Lane, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lane = lane
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._group = asyncio.TaskGroup()
        self._reading: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_in_headers = False
        self._tls = writer.get_extra_info("ssl_object")
        family = writer.get_extra_info("socket").family
        self._client = parse_socket_addr(family, writer.get_extra_info("peername"))
        self._server = parse_socket_addr(family, writer.get_extra_info("sockname"))
        is_h2 = self._tls is not None and self._tls.selected_alpn_protocol() == "h2"
        self._machine = self._new_machine(H2Machine if is_h2 else H11Machine)

    async def run(self) -> None:
        """Serve the connection to its end; raises nothing but its cancellation."""
        try:
            await self._serve()
            await self._flush_and_close()
        except ExceptionGroup as errors:  # Python 3.11, which the router has
            # The fault line around one connection: a peer's bytes must not end the others.
            lost, failed = errors.split(OSError)
            if lost:
                _log.debug("connection_lost client=%s", self._client, exc_info=lost)
            if failed:
                _log.error("connection_failed client=%s", self._client, exc_info=failed)
        finally:
            self._stop_idle_timer()
            self._writer.transport.abort()
            del self._machine, self._reader, self._writer  # cycles: the garbage collector comes late

    def end_if_idle(self) -> None:
        """Close the connection unless a request is under way."""
        if self._idle_timer is not None:
            self._end_idle()

    def spawn(self, function: Any, *args: Any) -> None:
        """Run a task of the protocol machine, which calls this; it ends before the connection does."""
        self._group.create_task(function(*args))

    async def spawn_app(self, app: ASGIWrapper, config: Config, scope: Any, send: Any) -> Any:
        """Call the app for one request, for the machine; return the function that takes its events."""
        is_alone = isinstance(
            self._machine, H11Machine
        )  # streams of one connection hold up each other instead
        events = RequestEvents(_READ_BYTES) if is_alone else RequestEvents()
        self.spawn(self._call, app, config, scope, events, send)
        return events.put

    async def _call(
        self, app: ASGIWrapper, config: Config, scope: Any, events: RequestEvents, send: Any
    ) -> None:
        try:
            await app(scope, events.get, send, _refuse_threads, _refuse_threads)
        except Exception:  # noqa: BLE001  # the fault line around one request
            await config.log.exception("request_failed path=%r", scope["path"])
        finally:
            events.close()
            await send(None)

    async def _serve(self) -> None:
        async with self._group:
            await self._machine.initiate()
            self._watch_idleness()
            # A task of its own: the machine may wait inside `handle` for room or for the answer before, and
            # must not wait any longer once the connection is closed.
            self._reading = self._group.create_task(self._read_all())
            await asyncio.wait({self._reading})
            self._reading = None  # its traceback holds what it read last, up to 256 KiB of a refused body
            await self._machine.handle(Closed())

    async def _read_all(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            await self._take(data)

    async def _take(self, data: bytes) -> None:
        if self._idle_timer is not None and not self._is_in_headers:
            self._begin_headers()
        try:
            await self._machine.handle(RawData(data))
        except H2ProtocolAssumedError as error:  # a client with prior knowledge
            await self._switch_to_h2(error.data)
        except H2CProtocolRequiredError as error:  # Upgrade: h2c
            await self._switch_to_h2(error.data, error.headers, error.settings)

    def _new_machine(self, kind: type[H2Machine | H11Machine]) -> H2Machine | H11Machine:
        lane = self._lane
        return kind(
            lane.app,
            lane.config,
            lane.context,
            self,
            ConnectionState({}),
            self._tls is not None,
            self._client,
            self._server,
            self._send,
        )

    async def _switch_to_h2(self, data: bytes, *upgrade: Any) -> None:
        self._machine = self._new_machine(H2Machine)
        await self._machine.initiate(*upgrade)
        if not upgrade:  # the preface looked like a request
            self._watch_idleness()
        if data:
            await self._machine.handle(RawData(data))

    async def _send(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Closed():
                self._stop_reading()
            case Updated(idle=True):
                self._watch_idleness()
            case Updated():
                self._stop_idle_timer()

    async def _write(self, data: bytes) -> None:
        if not data or self._writer.is_closing():
            return
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            self._stop_reading()

    def _stop_reading(self) -> None:
        """Let `_serve` go on to its end."""
        if self._reading is not None:
            self._reading.cancel()

    async def _flush_and_close(self) -> None:
        """Let the client take what was written, then close."""
        with contextlib.suppress(OSError, TimeoutError):
            if self._machine.is_body_unread and not self._writer.is_closing():
                self._reader.feed_eof()
                await self._reader.read()  # to free what it had buffered
                await Lingering(self._writer, self._lane.pace).ended
            self._writer.close()
            async with asyncio.timeout(self._lane.limits.flush_timeout):
                await self._writer.wait_closed()

    def _watch_idleness(self) -> None:
        self._stop_idle_timer()
        seconds = 0.0 if self._lane.is_ending else self._lane.limits.keep_alive_timeout
        self._idle_timer = self._loop.call_later(seconds, self._end_idle)
        if self._machine.has_begun_headers:  # those of a pipelined request
            self._begin_headers()

    def _begin_headers(self) -> None:
        """Give the headers that have begun their own time; none to what is ending."""
        if isinstance(self._machine, H11Machine) and not self._lane.is_ending:
            self._stop_idle_timer()
            self._is_in_headers = True
            self._idle_timer = self._loop.call_later(self._lane.limits.header_timeout, self._end_idle)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
            self._is_in_headers = False

    def _end_idle(self) -> None:
        self._stop_idle_timer()
        if isinstance(self._machine, H2Machine):
            with contextlib.suppress(ProtocolError):  # it said so already
                self._machine.connection.close_connection()  # GOAWAY: requests may be sent elsewhere
                self._writer.write(self._machine.connection.data_to_send())
        self._stop_reading()


def _refuse_threads(*_: Any) -> None:
    raise RuntimeError("ASGI apps run on the loop")

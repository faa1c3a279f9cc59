"""Who connects to a group's socket: nobody is believed anything before a hello with the group's token."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Callable

from frame.pool.heads import decode_head
from frame.wire.frames import HEADER, WIRE_VERSION, Frame, WireError
from frame.wire.messages import HelloHead, Kind
from frame.worker.sockets import notice_loss

_log = logging.getLogger(__name__)
HELLO_SECONDS = 5.0
"""Seconds in which somebody who connected must have said who it is."""
MAX_HELLO_BYTES = 64 << 10
"""Of a hello's head: names, a path and an address."""
MAX_STRANGERS = 64
"""Connections that have not said who they are; one more turns out the oldest. Ranks speak at once."""

Admit = Callable[[socket.socket, HelloHead], str]
"""Takes a connection whose hello has the token; returns why it is refused, "" when it is taken."""


async def receive(listener: socket.socket, token: str, admit: Admit, *, name: str, patience: float) -> None:
    """Let all who connect say hello, until cancelled; those who have not by then are turned out.

    Args:
        admit: owns the connection that it takes.
        name: of the group, for the log.
        patience: seconds without a sign of the peer's host after which a TCP connection is lost.
    """
    loop = asyncio.get_running_loop()
    strangers: dict[asyncio.Task[None], socket.socket] = {}  # the oldest first

    def leave(task: asyncio.Task[None]) -> None:
        connection = strangers.pop(task)
        if task.cancelled():  # perhaps before it began
            connection.close()

    async with asyncio.TaskGroup() as tasks:
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:  # it went before it was let in
                continue
            if len(strangers) >= MAX_STRANGERS:
                next(iter(strangers)).cancel()
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                notice_loss(connection, patience)
            task = tasks.create_task(_meet(connection, token, admit, name))
            strangers[task] = connection
            task.add_done_callback(leave)


async def read_hello(connection: socket.socket) -> HelloHead:
    """Return a connection's first message, and not a byte behind it; the caller sets the deadline.

    Raises:
        OSError: the peer went away.
        WireError: it sent something else.
    """
    version, kind, descriptors, head_bytes, body_bytes = HEADER.unpack(await _read(connection, HEADER.size))
    if version != WIRE_VERSION:
        raise WireError(f"wire version {version}, expected {WIRE_VERSION}")
    if kind != Kind.HELLO or descriptors or body_bytes or head_bytes > MAX_HELLO_BYTES:
        raise WireError("its first message is no hello")
    hello = decode_head(Frame(kind, await _read(connection, head_bytes), memoryview(b""), 0))
    assert isinstance(hello, HelloHead)
    return hello


async def _meet(connection: socket.socket, token: str, admit: Admit, name: str) -> None:
    refusal = "turned out"
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            hello = await read_hello(connection)
        is_ours = hmac.compare_digest(hello.token.encode(), token.encode())
        refusal = admit(connection, hello) if is_ours else "wrong token"
    except TimeoutError:
        refusal = f"no hello within {HELLO_SECONDS:g} s"
    except (OSError, WireError) as error:
        refusal = str(error)
    finally:
        if refusal:
            connection.close()
            _log.warning("rank_refused group=%s reason=%s", name, refusal)


async def _read(connection: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            raise ConnectionResetError("it closed the connection")
        data += more
    return data

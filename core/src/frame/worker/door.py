"""How the other ranks of a group join rank 0: where it listens, who is let in.

A rank sends its number and the digest of the group's token; rank 0 lets it in with one byte. What comes over
the socket after that is `link`'s.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from frame.wire.addresses import Address, TcpAddress, UnixAddress
from frame.worker.link import LinkError
from frame.worker.sockets import connect

_log = logging.getLogger(__name__)
JOIN_SECONDS = 30.0
"""All ranks join when they are told to load, which is in the same moment."""
GREETING_SECONDS = 5.0
"""How long a connection may stay without saying which rank it is."""
_GREETING = struct.Struct("!I32s")
"""Rank, SHA-256 of the token: of a fixed size, so that a stranger cannot make rank 0 hold more."""
_WELCOME = b"\x01"


class Door:
    """Where rank 0 listens for the others, until all of them are in. Closing it is the owner's."""

    def __init__(self, listener: socket.socket, address: Address) -> None:
        """Wrap a listening socket; use `open_door`."""
        self._listener = listener
        self.address = address

    def let_in(
        self, world_size: int, token: str, timeout: float, *, patience: float = GREETING_SECONDS
    ) -> list[socket.socket]:
        """Wait for all other ranks and return their sockets, rank 1 first; the caller closes them.

        A connection with another token, or that says nothing for `patience` seconds, is closed and keeps
        nobody waiting.

        Raises:
            LinkError: some did not come within `timeout` seconds; the message names them.
        """
        visitors = _Visitors(self._listener, world_size, token, patience)
        deadline = time.monotonic() + timeout
        with ExitStack() as undo:
            undo.callback(visitors.close_all)
            while (missing := visitors.missing()) and (left := deadline - time.monotonic()) > 0:
                visitors.serve(left)
            if missing:
                names = ", ".join(map(str, missing))
                raise LinkError(f"rank {names} did not join rank 0 within {timeout:g} s")
            return visitors.leave()

    def close(self) -> None:
        """Stop to listen. Idempotent."""
        self._listener.close()
        if isinstance(self.address, UnixAddress):
            Path(self.address.path).unlink(missing_ok=True)


def open_door(router: Address, connection: socket.socket) -> Door:
    """Listen for the other ranks: beside the router's Unix socket, or at the address that reaches the router.

    Args:
        router: where `connection`, this rank's own, is connected to.
    """
    listener = socket.socket(connection.family, socket.SOCK_STREAM)
    if isinstance(router, UnixAddress):
        path = str(Path(router.path).with_name("ranks"))
        listener.bind(path)
        address: Address = UnixAddress(path)
    else:
        own = connection.getsockname()
        listener.bind((own[0], 0, *own[2:]))
        address = TcpAddress(own[0], listener.getsockname()[1])
    listener.listen(64)
    return Door(listener, address)


def free_port() -> int:
    """Return a TCP port that nobody listens on in this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def join(address: Address, rank: int, token: str, timeout: float) -> socket.socket:
    """Return a socket on which rank 0's records come; the caller closes it.

    Raises:
        LinkError: rank 0 is not there, or did not let this rank in.
    """
    try:
        connection = connect(address, timeout)
    except OSError as error:
        raise LinkError(f"rank {rank} cannot reach rank 0 at {address}: {error}") from error
    try:
        connection.settimeout(timeout)
        connection.sendall(_GREETING.pack(rank, _digest(token)))
        welcome = connection.recv(len(_WELCOME))
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise LinkError(f"rank {rank} could not join rank 0 at {address}: {error}") from error
    if welcome != _WELCOME:
        connection.close()
        raise LinkError(f"rank 0 at {address} refused rank {rank}: another token, or the rank is taken")
    return connection


# --- the door's other side ------------------------------------------------------------------------


class _Visitor:
    """A connection that has not said who it is."""

    def __init__(self, connection: socket.socket, patience: float) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.said = b""
        self.deadline = time.monotonic() + patience


class _Visitors:
    """Those at the door, and the ranks that are in."""

    def __init__(self, listener: socket.socket, world_size: int, token: str, patience: float) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._world_size = world_size
        self._digest = _digest(token)
        self._patience = patience
        self._waiting: dict[int, _Visitor] = {}
        self._inside: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def missing(self) -> list[int]:
        """Return the ranks that are not in."""
        return [rank for rank in range(1, self._world_size) if rank not in self._inside]

    def serve(self, timeout: float) -> None:
        """Do what is to be done after at most `timeout` seconds of waiting."""
        now = time.monotonic()
        first = min((visitor.deadline for visitor in self._waiting.values()), default=now + timeout)
        patience = max(0.0, min(timeout, first - now))
        for descriptor, _ in self._poll.poll(patience * 1000 + 1):
            if descriptor == self._listener.fileno():
                self._open()
            elif descriptor in self._waiting:
                self._hear(descriptor)
        now = time.monotonic()
        for descriptor in [key for key, visitor in self._waiting.items() if visitor.deadline <= now]:
            self._refuse(descriptor, "it said nothing")

    def leave(self) -> list[socket.socket]:
        """Give the ranks' sockets away, rank 1 first, and turn all others out."""
        for descriptor in list(self._waiting):
            self._refuse(descriptor, "all ranks are here")
        inside, self._inside = self._inside, {}
        return [inside[rank] for rank in sorted(inside)]

    def close_all(self) -> None:
        """Close every connection."""
        for connection in self.leave():
            connection.close()

    def _open(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went before it was let in
            return
        self._waiting[connection.fileno()] = _Visitor(connection, self._patience)
        self._poll.register(connection, select.POLLIN)

    def _hear(self, descriptor: int) -> None:
        visitor = self._waiting[descriptor]
        try:
            data = visitor.connection.recv(_GREETING.size - len(visitor.said))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        visitor.said += data
        if not data:
            self._refuse(descriptor, "it went away")
        elif len(visitor.said) == _GREETING.size:
            self._judge(descriptor, *_GREETING.unpack(visitor.said))

    def _judge(self, descriptor: int, rank: int, digest: bytes) -> None:
        if not hmac.compare_digest(digest, self._digest):
            self._refuse(descriptor, "its token is another")
        elif rank not in self.missing():
            self._refuse(descriptor, f"rank {rank} is not missing")
        else:
            connection = self._take_out(descriptor)
            connection.setblocking(True)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # who went away meanwhile is found by who reads
                connection.sendall(_WELCOME)
            self._inside[rank] = connection

    def _refuse(self, descriptor: int, reason: str) -> None:
        _log.warning("rank_refused reason=%r", reason)
        self._take_out(descriptor).close()

    def _take_out(self, descriptor: int) -> socket.socket:
        self._poll.unregister(descriptor)
        return self._waiting.pop(descriptor).connection


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()

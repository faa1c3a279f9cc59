"""Listening sockets, bound before a server starts so that both servers fail alike and port 0 is known."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from frame.config.forms import Address
from frame.errors import FrameError

BACKLOG = 1024
_PROBE_TIMEOUT = 1.0  # seconds; a live server's kernel accepts at once


class ListenError(FrameError):
    """An address cannot be listened on: whoever chose it can fix it."""

    exit_code = 2  # as DJL Serving ends when it cannot bind


@contextlib.contextmanager
def listening(address: Address) -> Iterator[tuple[list[socket.socket], list[str]]]:
    """Bind `address`; close its sockets and remove its Unix socket file in the end.

    A host name is bound at each of its addresses (`localhost` is 127.0.0.1 and ::1), all with the same port.

    Yields:
        Non-blocking sockets, bound and listening, and their addresses as text, ports filled in.

    Raises:
        ListenError: the address is taken, forbidden or not of this machine.
    """
    is_unix = address.scheme == "unix"
    sockets = [_bind_unix(address)] if is_unix else _bind_host(address)
    identity = _identity(address.path) if is_unix else None
    try:
        yield sockets, [_text(address, sock) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
        # A successor may have put its own socket there while this server finished its answers.
        if identity is not None and identity == _identity(address.path):
            Path(address.path).unlink(missing_ok=True)


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns  # inode numbers are used again


def _bind_host(address: Address) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ListenError(
            f"{address}: the host name {address.host!r} cannot be resolved ({error.strerror})"
        ) from error
    targets = sorted({(family, sockaddr[0]) for family, _, _, _, sockaddr in found})  # IPv4 first
    sockets: list[socket.socket] = []
    port = address.port
    for family, host in targets:
        try:
            sock = _bind(family, (str(host), port))
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and len(targets) > 1:
                continue  # a machine without IPv6 still resolves localhost to ::1
            for bound in sockets:
                bound.close()
            raise _listen_error(address, error) from error
        sockets.append(sock)
        port = sock.getsockname()[1]
    if not sockets:
        raise ListenError(f"{address}: none of its addresses is of this machine")
    return sockets


def _bind(family: int, target: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            # Inherited by accepted sockets: answers leave at once instead of waiting for an ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sock.bind(target)
        # Listening now, not later: with SO_REUSEADDR two servers may *bind* a port, but only one can listen.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(address: Address) -> socket.socket:
    path = Path(address.path)
    if _is_abandoned(path):
        path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(address.path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _listen_error(address, error) from error
    return sock


def _is_abandoned(path: Path) -> bool:
    """Tell whether `path` is a socket that nobody listens on: what a killed server leaves behind."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _listen_error(address: Address, error: OSError) -> ListenError:
    match error.errno:
        case errno.EADDRINUSE if address.scheme == "unix":
            text = "something else has it; stop the server that listens there or choose another path"
        case errno.EADDRINUSE:
            text = (
                f"the port is in use; `ss -ltnp 'sport = :{address.port}'` shows by whom; stop that process, "
                "or choose another port with --port or inference_address"
            )
        case errno.EACCES | errno.EPERM:
            text = "not permitted; ports below 1024 need privileges, a Unix socket a writable folder"
        case errno.EADDRNOTAVAIL:
            text = "this machine does not have that address; 0.0.0.0 stands for all that it has"
        case _:
            text = error.strerror or str(error)
    return ListenError(f"cannot listen on {address}: {text}")


def _text(address: Address, sock: socket.socket) -> str:
    if address.scheme == "unix":
        return str(address)
    host, port = sock.getsockname()[:2]
    return str(replace(address, host=host, port=port))

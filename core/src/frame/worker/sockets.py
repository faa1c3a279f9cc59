"""What both ends of a worker's socket share: connecting, receiving frames with their descriptors, writing."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from frame.wire.addresses import Address, TcpAddress
from frame.wire.frames import MAX_BODY_BYTES, Frame, FrameDecoder
from frame.wire.parts import map_all

MAX_SEGMENTS = 512
"""Buffers given to one sendmsg; Linux allows 1024 (IOV_MAX)."""
_SCRATCH_BYTES = 256 << 10
_ANCILLARY_BYTES = socket.CMSG_SPACE(253 * array.array("i").itemsize)
_PROBES = 3
"""Unanswered probes after which an idle TCP connection counts as lost."""


def connect(address: Address, timeout: float) -> socket.socket:
    """Return a blocking socket that is connected; the caller closes it.

    Raises:
        OSError: nobody listens there, or does not answer for `timeout` seconds.
    """
    if isinstance(address, TcpAddress):
        connection = socket.create_connection((address.host, address.port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection


def notice_loss(connection: socket.socket, seconds: float) -> None:
    """Let a TCP connection fail when its peer is not to be reached for so long, idle or not.

    A Unix socket always notices; whole seconds, 2 at least, are the finest that the kernel counts in.
    """
    if connection.family == socket.AF_UNIX:
        return
    interval = max(1, int(seconds / (_PROBES + 1)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(2000, int(seconds * 1000)))


class FrameReader:
    """Frames from a connected Unix socket, each with its mapped parts. Used by one thread at a time."""

    def __init__(
        self,
        connection: socket.socket,
        max_body_bytes: int = MAX_BODY_BYTES,
        *,
        keeps_descriptors: bool = False,
    ) -> None:
        """Read from `connection`.

        Args:
            keeps_descriptors: parts may be passed on (`wire.parts.map_memfd`).
        """
        self._socket = connection
        self._keeps_descriptors = keeps_descriptors
        self._decoder = FrameDecoder(max_body_bytes)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._descriptors: list[int] = []

    def receive(self) -> list[tuple[Frame, list[memoryview]]] | None:
        """Read once and return the frames that are complete now; None at the end of the stream.

        Raises:
            OSError: of the socket; BlockingIOError when a non-blocking one has nothing.
            WireError, ValueError: the peer sent what is no frame, or a descriptor that is no sealed part.
        """
        direct = self._decoder.direct_buffer()
        if direct is not None:
            size = self._socket.recv_into(direct)
            frames = self._decoder.received_directly(size)
        else:
            size = self._receive_scratch()
            frames = self._decoder.feed(self._scratch[:size])
        return [(frame, self._mapped(frame)) for frame in frames] if size else None

    def close(self) -> None:
        """Close descriptors that came for frames which are not complete."""
        left, self._descriptors = self._descriptors, []
        for descriptor in left:
            os.close(descriptor)

    def _receive_scratch(self) -> int:
        flags = socket.MSG_CMSG_CLOEXEC
        size, ancillary, _, _ = self._socket.recvmsg_into([self._scratch], _ANCILLARY_BYTES, flags)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                self._descriptors += received
        return size

    def _mapped(self, frame: Frame) -> list[memoryview]:
        if not frame.fd_count:
            return []
        taken = self._descriptors[: frame.fd_count]
        del self._descriptors[: frame.fd_count]
        return map_all(taken, keeps=self._keeps_descriptors)


def drop_sent(views: Sequence[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of `views` after `sent` bytes."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []

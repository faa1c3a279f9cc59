"""Frames on a worker's socket: a fixed header, a JSON head, the parts' bytes; any split of the stream.

    offset  size  field
    0       1     protocol version
    1       1     kind, see `messages.Kind`
    2       2     number of file descriptors sent along (sealed memfds of large parts)
    4       4     length of the head in bytes
    8       8     length of the body in bytes: the inline parts, one after the other

Numbers are big-endian. Pure: bytes in, frames out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

WIRE_VERSION = 1
HEADER = struct.Struct("!BBHIQ")
MAX_HEAD_BYTES = 64 << 20
"""A head holds properties and lengths only; 64 MiB is far over 1000 jobs with 32 KiB of headers each."""
MAX_BODY_BYTES = 1 << 40
MAX_FDS = 250
"""Linux passes at most 253 descriptors with one message (SCM_MAX_FD)."""
DIRECT_BYTES = 64 << 10
"""A body with more than this missing is received into its own buffer, not through the scratch buffer."""


class WireError(Exception):
    """The peer speaks another protocol or lies about lengths: the connection must be closed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One received message; `body` is owned by whoever holds the view."""

    kind: int
    head: bytes
    body: memoryview
    fd_count: int


def frame_header(kind: int, head: bytes, body_bytes: int, fd_count: int = 0) -> bytes:
    """Return header and head of a message whose parts follow."""
    return HEADER.pack(WIRE_VERSION, kind, fd_count, len(head), body_bytes) + head


class FrameDecoder:
    """Cut a byte stream into frames.

    Invariants: frames come out in the order of the stream; their bytes do not depend on how it was split;
    no buffer is larger than what the peer announced within the limits, and none is made before its frame's
    head arrived.
    """

    __slots__ = ("_body", "_fd_count", "_filled", "_head", "_kind", "_max_body_bytes", "_pending")

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._pending = bytearray()
        self._body: memoryview | None = None
        self._filled = 0
        self._kind = self._fd_count = 0
        self._head = b""

    def direct_buffer(self) -> memoryview | None:
        """Where to receive next when a large body is under way; report with `received_directly`."""
        if self._body is None or len(self._body) - self._filled < DIRECT_BYTES:
            return None
        return self._body[self._filled :]

    def received_directly(self, size_bytes: int) -> list[Frame]:
        """Count bytes that were put into `direct_buffer`."""
        assert self._body is not None
        self._filled += size_bytes
        return [self._finish()] if self._filled == len(self._body) else []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take the next bytes of the stream and return the frames they complete.

        Raises:
            WireError: wrong version, or lengths over the limits.
        """
        frames: list[Frame] = []
        view = memoryview(data)
        while view:
            if self._body is None:
                view = self._feed_start(view)
            else:
                taken = min(len(view), len(self._body) - self._filled)
                self._body[self._filled : self._filled + taken] = view[:taken]
                self._filled += taken
                view = view[taken:]
            if self._body is not None and self._filled == len(self._body):
                frames.append(self._finish())
        return frames

    def _feed_start(self, view: memoryview) -> memoryview:
        """Collect header and head; make the body's buffer when both are there. Return what is left."""
        pending = self._pending
        if len(pending) < HEADER.size:
            taken = HEADER.size - len(pending)
            pending += view[:taken]
            view = view[taken:]
            if len(pending) < HEADER.size:
                return view
        version, kind, fd_count, head_bytes, body_bytes = HEADER.unpack_from(pending)
        self._check(version, fd_count, head_bytes, body_bytes)
        taken = HEADER.size + head_bytes - len(pending)
        pending += view[:taken]
        view = view[taken:]
        if len(pending) == HEADER.size + head_bytes:
            self._kind, self._fd_count = kind, fd_count
            self._head = bytes(memoryview(pending)[HEADER.size :])
            self._pending = bytearray()
            self._body = memoryview(bytearray(body_bytes))
            self._filled = 0
        return view

    def _check(self, version: int, fd_count: int, head_bytes: int, body_bytes: int) -> None:
        if version != WIRE_VERSION:
            raise WireError(f"wire version {version}, expected {WIRE_VERSION}")
        if head_bytes > MAX_HEAD_BYTES or body_bytes > self._max_body_bytes or fd_count > MAX_FDS:
            raise WireError(f"frame too large: head={head_bytes} body={body_bytes} fds={fd_count}")

    def _finish(self) -> Frame:
        body = self._body
        assert body is not None
        self._body = None
        return Frame(self._kind, self._head, body.toreadonly(), self._fd_count)

"""The worker's end of the socket: blocking, one reading thread, any thread may write."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from frame.contract.requests import Buffer, Part
from frame.wire.frames import Frame, FrameDecoder, frame_header
from frame.wire.messages import Kind, PartHead, to_json
from frame.wire.parts import MEMFD_BYTES, map_all, memfd_of

_encode = json.JSONEncoder(default=to_json, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
_SCRATCH_BYTES = 256 << 10
_MAX_SEGMENTS = 512
"""Buffers a sendmsg may take; Linux allows 1024 (IOV_MAX)."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(253 * array.array("i").itemsize)


class Message(NamedTuple):
    """One received message: its head as parsed JSON, then its body and its mapped parts."""

    kind: Kind
    head: dict[str, Any]
    buffers: list[memoryview]


class Channel:
    """Messages with their parts over one connected Unix socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._write_lock = threading.Lock()
        self._decoder = FrameDecoder()
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._descriptors: list[int] = []

    def send(self, kind: Kind, head: object, parts: Sequence[Buffer] = ()) -> None:
        """Write one message; blocks until the kernel has taken it.

        Args:
            head: a message dataclass whose part heads were made by `place_parts` for `parts`.
        """
        inline = [part for part in parts if len(part) and len(part) < MEMFD_BYTES]
        descriptors = [memfd_of([part]) for part in parts if len(part) >= MEMFD_BYTES]
        try:
            encoded = _encode(head).encode()
            size = sum(map(len, inline))
            header = frame_header(kind, encoded, size, len(descriptors))
            with self._write_lock:
                self._write([header, *inline], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _write(self, segments: list[Buffer], descriptors: list[int]) -> None:
        """Write all segments; the descriptors go with the first byte."""
        ancillary: Any = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        views = [memoryview(segment) for segment in segments]
        while views:
            sent = self._socket.sendmsg(views[:_MAX_SEGMENTS], ancillary)
            ancillary = []
            views = _drop(views, sent)

    def read(self, timeout: float | None) -> list[Message]:
        """Return the messages that are complete after one read; one thread at a time.

        Args:
            timeout: seconds to wait for bytes; None waits for ever.

        Raises:
            ConnectionError: the router closed the connection.
        """
        if timeout is not None and not self._poll.poll(timeout * 1000):
            return []
        frames = self._receive()
        if frames is None:
            raise ConnectionResetError("the router closed the connection")
        return [
            Message(Kind(frame.kind), _decode(str(frame.head, "utf-8")), [frame.body, *self._mapped(frame)])
            for frame in frames
        ]

    def _receive(self) -> list[Frame] | None:
        direct = self._decoder.direct_buffer()
        if direct is not None:
            size = self._socket.recv_into(direct)
            return self._decoder.received_directly(size) if size else None
        size, ancillary, _, _ = self._socket.recvmsg_into(
            [self._scratch], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                self._descriptors += received
        return self._decoder.feed(self._scratch[:size]) if size else None

    def _mapped(self, frame: Frame) -> list[memoryview]:
        taken, self._descriptors = self._descriptors[: frame.fd_count], self._descriptors[frame.fd_count :]
        return map_all(taken)


def _drop(views: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of `views` after `sent` bytes."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


def place_parts(parts: Sequence[Part], descriptors_before: int = 0) -> list[PartHead]:
    """Return the heads of `parts`: which are inline, which travel as a descriptor."""
    heads: list[PartHead] = []
    for part in parts:
        if len(part.data) >= MEMFD_BYTES:
            heads.append((part.key, len(part.data), descriptors_before))
            descriptors_before += 1
        else:
            heads.append((part.key, len(part.data), -1))
    return heads


class PartReader:
    """Hand out the parts of one message in the order of their heads."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self._body, *self._mapped = buffers
        self._offset = 0

    def take(self, heads: Sequence[PartHead]) -> tuple[Part, ...]:
        """Return the next parts; inline ones are views of the message's body."""
        parts = []
        for key, size, descriptor in heads:
            if descriptor >= 0:
                parts.append(Part(key, self._mapped[descriptor]))
            else:
                parts.append(Part(key, self._body[self._offset : self._offset + size]))
                self._offset += size
        return tuple(parts)

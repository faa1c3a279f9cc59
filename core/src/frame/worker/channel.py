"""The worker's end of the socket: blocking, one reading thread, any thread may write."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from frame.contract.requests import Buffer, Part
from frame.wire.frames import frame_header
from frame.wire.messages import AnswerHead, AnswersHead, Kind, PartHead, RunHead, to_json
from frame.wire.parts import MEMFD_BYTES, memfd_of
from frame.worker.sockets import MAX_SEGMENTS, FrameReader, drop_sent, notice_loss

_encode = json.JSONEncoder(default=to_json, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class Message(NamedTuple):
    """One received message: its head as parsed JSON, then its body and its mapped parts."""

    kind: Kind
    head: dict[str, Any]
    buffers: list[memoryview]


class Channel:
    """Messages with their parts over one connected socket; descriptors travel over a Unix socket only."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._takes_descriptors = connection.family == socket.AF_UNIX
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._write_lock = threading.Lock()
        self._reader = FrameReader(connection)

    def notice_loss(self, seconds: float) -> None:
        """Let reads and writes fail when the router is not to be reached for so long."""
        notice_loss(self._socket, seconds)

    def send(self, kind: Kind, head: object, parts: Sequence[Buffer] = ()) -> None:
        """Write one message; blocks until the kernel has taken it.

        Args:
            head: a message dataclass whose part heads were made by `place_parts` for `parts`; without
                descriptors they are changed to say that all parts are inline.
        """
        limit = MEMFD_BYTES
        if not self._takes_descriptors:
            limit = sys.maxsize
            _place_inline(head)
        inline = [part for part in parts if len(part) and len(part) < limit]
        descriptors = [memfd_of([part]) for part in parts if len(part) >= limit]
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
            sent = self._socket.sendmsg(views[:MAX_SEGMENTS], ancillary)
            ancillary = []
            views = drop_sent(views, sent)

    def read(self, timeout: float | None) -> list[Message]:
        """Return the messages that are complete after one read; one thread at a time.

        Args:
            timeout: seconds to wait for bytes; None waits for ever.

        Raises:
            ConnectionError: the router closed the connection.
        """
        if timeout is not None and not self._poll.poll(timeout * 1000):
            return []
        frames = self._reader.receive()
        if frames is None:
            raise ConnectionResetError("the router closed the connection")
        return [
            Message(Kind(frame.kind), _decode(str(frame.head, "utf-8")), [frame.body, *mapped])
            for frame, mapped in frames
        ]


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


def _place_inline(head: object) -> None:
    """Say in a message's part heads that no part travels as a descriptor."""
    owners: Sequence[Any] = (head,) if isinstance(head, AnswerHead) else ()
    if isinstance(head, (AnswersHead, RunHead)):
        owners = head.jobs
    for owner in owners:
        owner.parts = [(key, size, -1) for key, size, _ in owner.parts]


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

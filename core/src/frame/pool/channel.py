"""The router's end of a worker's socket: non-blocking, on the event loop, with descriptors passed along.

A plain socket with `add_reader` and not an asyncio transport, because transports cannot pass descriptors.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from frame.wire.frames import Frame, WireError
from frame.worker.sockets import MAX_SEGMENTS, FrameReader, drop_sent

_MAX_BODY_BYTES = 256 << 20
"""A worker sends at most 200 answers of less than 1 MiB in one message; larger ones travel as descriptors."""

Segment = bytes | bytearray | memoryview
OnFrame = Callable[[Frame, list[memoryview]], None]
OnClosed = Callable[[str], None]


class Channel:
    """Messages to and from one worker.

    Invariants: messages leave in the order of `send`; `on_closed` is called once, after the last `on_frame`;
    nothing is called after `close`.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_frame: OnFrame,
        on_closed: OnClosed,
        *,
        keeps_descriptors: bool = False,
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._reader = FrameReader(connection, _MAX_BODY_BYTES, keeps_descriptors=keeps_descriptors)
        self._unsent: list[tuple[list[memoryview], list[int]]] = []
        self.is_open = True
        self._loop.add_reader(connection.fileno(), self._readable)

    def send(self, segments: Sequence[Segment], descriptors: Sequence[int] = ()) -> None:
        """Write one message at once, or queue what the kernel does not take.

        Args:
            descriptors: passed with the first byte; duplicated when queued, so the caller may close its own.
        """
        if not self.is_open:
            return
        views = [memoryview(segment) for segment in segments if len(segment)]
        if not self._unsent:
            views, descriptors = self._write(views, descriptors)
        if views:
            self._unsent.append((views, [os.dup(descriptor) for descriptor in descriptors]))
            if len(self._unsent) == 1:
                self._loop.add_writer(self._socket.fileno(), self._writable)

    def close(self) -> None:
        """Stop reading and writing and close the socket. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._socket.fileno())
        if self._unsent:
            self._loop.remove_writer(self._socket.fileno())
        for _, duplicated in self._unsent:
            _close_all(duplicated)
        self._unsent = []
        self._reader.close()
        self._socket.close()

    # --- writing ------------------------------------------------------------------------------

    def _write(
        self, views: list[memoryview], descriptors: Sequence[int]
    ) -> tuple[list[memoryview], Sequence[int]]:
        """Write what the kernel takes; return what is left."""
        while views:
            ancillary: Any = ()
            if descriptors:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                sent = self._socket.sendmsg(views[:MAX_SEGMENTS], ancillary)
            except (BlockingIOError, InterruptedError):
                return views, descriptors
            except OSError as error:
                self._loop.call_soon(self._end, f"{type(error).__name__}: {error}")
                return [], ()
            descriptors = ()
            views = drop_sent(views, sent)
        return [], ()

    def _writable(self) -> None:
        while self._unsent:
            views, duplicated = self._unsent[0]
            left, unsent = self._write(views, duplicated)
            if duplicated and not unsent:
                _close_all(duplicated)
            if left:
                self._unsent[0] = (left, list(unsent))
                return
            self._unsent.pop(0)
        self._loop.remove_writer(self._socket.fileno())

    # --- reading ------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            frames = self._reader.receive()
            for frame, mapped in frames or ():
                self._on_frame(frame, mapped)
                if not self.is_open:
                    return
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, WireError, ValueError, MemoryError) as error:
            self._end(f"{type(error).__name__}: {error}")
            return
        if frames is None:
            self._end("the worker closed its socket")

    def _end(self, reason: str) -> None:
        if self.is_open:
            self.close()
            self._on_closed(reason)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

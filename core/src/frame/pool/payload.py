"""A request body on its way to a worker: in the pieces in which it came, or in a sealed memfd when large."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

from frame.wire.parts import MEMFD_BYTES, SealedMap, append, open_memfd, seal

_SMALL_BYTES = 512
_JOINED_BYTES = 64 * 1024


class Payload:
    """Bytes that the router does not join, but for tiny pieces: each would cost more than it holds.

    `close` frees the memfd of a large one; idempotent.

    Invariant: all bytes are in `segments`, or all are behind `descriptor`.
    """

    __slots__ = ("descriptor", "segments", "size_bytes")

    def __init__(self, first: bytes = b"") -> None:
        self.segments: list[bytes | bytearray] = [first] if first else []
        self.size_bytes = len(first)
        self.descriptor = -1
        if self.size_bytes >= MEMFD_BYTES:
            self._spill()

    @classmethod
    def of_answer(cls, body: bytes | memoryview) -> Payload:
        """Return the bytes of an answer; those that came as a descriptor which was kept are not copied."""
        if isinstance(body, memoryview):
            mapped = body.obj
            if isinstance(mapped, SealedMap) and mapped.descriptor >= 0 and len(mapped) == len(body):
                payload = cls()
                payload.size_bytes = len(body)
                payload.descriptor = os.dup(mapped.descriptor)
                return payload
        payload = cls(bytes(body))
        payload.finish()
        return payload

    def add(self, chunk: bytes) -> None:
        """Append the next piece of the body."""
        self.size_bytes += len(chunk)
        if self.descriptor >= 0:
            append(self.descriptor, chunk)
        elif chunk:
            self._keep(chunk)
            if self.size_bytes >= MEMFD_BYTES:
                self._spill()

    def _keep(self, chunk: bytes) -> None:
        last = self.segments[-1] if self.segments else None
        if last is None or len(chunk) >= _SMALL_BYTES:
            self.segments.append(chunk)
        elif isinstance(last, bytearray) and len(last) < _JOINED_BYTES:
            last += chunk
        else:
            self.segments.append(bytearray(chunk))

    def finish(self) -> None:
        """Say that the body is complete."""
        if self.descriptor >= 0:
            seal(self.descriptor)

    def copy(self) -> Payload:
        """Return the same bytes for somebody else to close; none is copied."""
        other = Payload()
        other.segments, other.size_bytes = list(self.segments), self.size_bytes
        other.descriptor = os.dup(self.descriptor) if self.descriptor >= 0 else -1
        return other

    def read_segments(self) -> Sequence[bytes | bytearray | memoryview]:
        """Return the bytes, mapped when they are behind the descriptor; they outlive `close`."""
        if self.descriptor < 0:
            return self.segments
        return [memoryview(mmap.mmap(self.descriptor, self.size_bytes, prot=mmap.PROT_READ))]

    def close(self) -> None:
        """Free what the payload holds."""
        self.segments = []
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _spill(self) -> None:
        self.descriptor = open_memfd()
        for segment in self.segments:
            append(self.descriptor, segment)
        self.segments = []

"""What a request is known by in quarantine: a digest of its content."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from frame.errors import QuarantinedError
from frame.policy.quarantine import Quarantine
from frame.pool.jobs import Job
from frame.wire.parts import MEMFD_BYTES

_log = logging.getLogger(__name__)
_DIGEST_BYTES = 16
_READ_BYTES = 1 << 20


def digest_of(job: Job) -> bytes:
    """Return the digest of content type, query parameters and body; the same however they came in pieces.

    It takes a millisecond for each megabyte.
    """
    return _content_of(job).digest()


def size_of(job: Job) -> int:
    """Return the bytes of a request's parts."""
    return sum(payload.size_bytes for _, payload in job.parts)


async def check_quarantine(quarantine: Quarantine, job: Job, now: Callable[[], float]) -> None:
    """Refuse a request that is held; a digest is made only when one of its size is.

    Raises:
        QuarantinedError: the request, or one like it, ended two workers.
    """
    size = size_of(job)
    if not quarantine.may_hold(size):
        return
    is_large = size >= MEMFD_BYTES
    digest = await asyncio.to_thread(_content_of(job).digest) if is_large else digest_of(job)
    left = quarantine.seconds_left(digest, now())
    if left is not None:
        raise QuarantinedError(
            f"this request ended two workers of its model; "
            f"it is refused for another {left:.0f} s (quarantine_time)",
            retry_after=left,
        )


def hold(quarantine: Quarantine, job: Job, model: str, now: Callable[[], float]) -> None:
    """Put a request in quarantine; call it before its payloads are closed, on the loop's thread.

    A large one is held some moments later: its digest is made in a thread.
    """
    size = size_of(job)
    if quarantine.seconds <= 0 or not size:
        return
    _log.warning(
        "request_quarantined model=%s request=%s seconds=%g", model, job.request_id, quarantine.seconds
    )
    if size < MEMFD_BYTES:
        quarantine.add(digest_of(job), size, now())
        return
    made = asyncio.get_running_loop().run_in_executor(None, _content_of(job).digest)
    made.add_done_callback(lambda done: quarantine.add(done.result(), size, now()))


@dataclass(frozen=True, slots=True)
class _Part:
    key: str
    size_bytes: int
    segments: list[bytes | bytearray]
    descriptor: int


@dataclass(frozen=True, slots=True)
class _Content:
    """A request's content, for a thread to read: it stays readable when the request's own payloads close."""

    content_type: str
    parts: list[_Part]

    def digest(self) -> bytes:
        """Return the digest and close the descriptors; called once, in any thread."""
        made = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        try:
            made.update(_framed(self.content_type.encode()))
            for part in self.parts:
                made.update(_framed(part.key.encode()))
                made.update(_length(part.size_bytes))
                for segment in part.segments:
                    made.update(segment)
                if part.descriptor >= 0:
                    for start in range(0, part.size_bytes, _READ_BYTES):
                        made.update(os.pread(part.descriptor, _READ_BYTES, start))
        finally:
            for part in self.parts:
                if part.descriptor >= 0:
                    os.close(part.descriptor)
        return made.digest()


def _content_of(job: Job) -> _Content:
    parts = [
        _Part(
            key,
            payload.size_bytes,
            payload.segments,
            os.dup(payload.descriptor) if payload.descriptor >= 0 else -1,
        )
        for key, payload in job.parts
    ]
    return _Content(job.properties.get("content-type", ""), parts)


def _framed(data: bytes) -> bytes:
    return _length(len(data)) + data


def _length(count: int) -> bytes:
    return count.to_bytes(8, "big")

"""What the batcher is told of each request of one model: by its content type, or by a look at its body."""

from __future__ import annotations

import os

from frame.contract.signatures import Signature
from frame.pool.jobs import Job
from frame.pool.payload import Payload
from frame.wire.hints import BatchHint
from frame.wire.padding import Padding, free_axes
from frame.wire.peek import MAX_BYTES, default_hint, peek


class HintMaker:
    """Makes the hints of one model's requests.

    A body is looked at only when that can make a difference: the model's signature is known, and it leaves
    open more than the number of rows, or its batches are padded or have a budget.
    """

    def __init__(self, padding: Padding | None, *, has_budget: bool) -> None:
        self._padding = padding
        self._has_rule = padding is not None or has_budget
        self._signature: Signature | None = None

    def learn(self, signature: Signature | None) -> None:
        """Take the signature of the model that has loaded; None when it has none."""
        is_open = signature is not None and any(
            spec.shape is None or free_axes(spec.shape) for spec in signature.inputs
        )
        self._signature = signature if self._has_rule or is_open else None

    def hint(self, job: Job) -> BatchHint:
        """Return the hint of a request whose body is complete."""
        content_type = job.properties.get("content-type", "")
        if not job.parts:
            return default_hint(content_type, 0)
        payload = job.parts[-1][1]  # query parameters come before the body
        if self._signature is None:
            return default_hint(content_type, payload.size_bytes)
        first = _first_bytes(payload)
        return peek(first, payload.size_bytes, content_type, job.codec, self._signature, self._padding)


def _first_bytes(payload: Payload) -> bytes:
    """Return the beginning of a body: `MAX_BYTES` of it or more, when it has so many."""
    if payload.descriptor >= 0:
        return os.pread(payload.descriptor, MAX_BYTES, 0)
    if payload.size_bytes <= MAX_BYTES:
        return b"".join(payload.segments)  # of one segment this is no copy
    first = bytearray()
    for segment in payload.segments:
        first += segment
        if len(first) >= MAX_BYTES:
            break
    return bytes(first)

"""Requests, answers and their content parts, as workers see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Union

from frame.contract.properties import Properties

Buffer = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True, slots=True)
class Part:
    """One content entry of a request or an answer: a key and its bytes.

    `data` of a request may be a read-only view of a buffer that lives as long as the view.
    """

    key: str
    data: Buffer


class RequestError(Exception):
    """Fail one request: returned from `predict` for that request alone, or raised for the batch.

    Args:
        status: HTTP status, 400-599. 400 for bad input, 424 for a handler's failure, 507 for memory.
        message: for the client: what is wrong, with which input, what was expected. No internals.
        type_name: the `type` field of the error body.
        body: the whole body when the handler made its own; None lets the router write the error JSON.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_name: str = "BadRequestError",
        properties: Mapping[str, str] = MappingProxyType({}),
        body: Buffer | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type_name = type_name
        self.properties = properties
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request as a worker sees it; immutable.

    Attributes:
        id: the request id that the client sees (`x-request-id`).
        properties: the request's headers and the server's additions; case-insensitive.
        parts: content entries in order; query parameters come before the body (key `data`).
        codec: dotted name of the module that decodes and encodes payloads for this request.
        is_cancelled: becomes true when the client went away; cheap, callable from any thread. Always false
            in a group of several ranks, where a cancellation takes effect between steps, on all of them.
        seed: for every random choice made for this request, 0 to 2**63 - 1: the client's (header
            `x-frame-seed`), else a random one; the same on all ranks of a group.
    """

    id: str
    properties: Properties
    parts: tuple[Part, ...]
    codec: str = "frame.worker.codecs.djl"
    is_cancelled: Callable[[], bool] = field(default=lambda: False, repr=False)
    seed: int = 0

    def part(self, key: str) -> Part | None:
        """Return the first part named `key`, or None."""
        return next((part for part in self.parts if part.key == key), None)

    @property
    def data(self) -> Buffer:
        """The body: part `data`, else the last part (query parameters precede the body), else b""."""
        found = self.part("data") or (self.parts[-1] if self.parts else None)
        return found.data if found else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole answer. `properties` become response headers; the body is the part `data`, or the first."""

    status: int = 200
    message: str = "OK"
    properties: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStream:
    """An answer that is sent piece by piece while the model produces it.

    The worker calls `next(chunks)` only when the client has room for more, and always calls `close` once: at
    the end, when the client goes away, or when `chunks` raises (then the stream is cut, so that the client
    notices).
    """

    head: Response
    chunks: Iterator[Buffer]
    close: Callable[[], None] = lambda: None

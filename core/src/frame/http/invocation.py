"""What a protocol's router half makes of a request line and headers, and what it must offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class Invocation:
    """A request without its body.

    Attributes:
        model: None when neither path, query nor headers name it: then the body's field `model_field`, or the
            only model of the server.
        properties: headers and the server's additions.
        parts: content entries that precede the body (query parameters).
    """

    model: str | None
    version: str | None
    properties: dict[str, str]
    parts: list[tuple[str, bytes]] = field(default_factory=list)
    model_field: str | None = None


class Adapter(Protocol):
    """The router half of a protocol; constructed once, without state of its own requests."""

    def invocation(
        self,
        parameters: Mapping[str, str],
        query: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        request_id: str,
    ) -> Invocation:
        """Read request line and headers; raise `BadRequestError` when they are wrong."""
        ...

    def error(self, status: int, type_name: str, message: str) -> tuple[Headers, bytes]:
        """Word an error: headers and body."""
        ...

"""What a client may do with a connection before and between its requests, the same on both HTTP servers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from frame.config.settings import ServerConfig

_TLS_HANDSHAKE_TIMEOUT = 10.0  # seconds; it is two or three round trips
_FLUSH_TIMEOUT = 30.0  # seconds

_SEPARATORS = len(": \r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of a listener's connections. Times in seconds.

    Attributes:
        header_timeout: from a request's first byte to the end of its headers.
        keep_alive_timeout: without a request, from the connection's start or the answer before; over HTTP/2
            the time of the headers is in it.
        max_header_size: bytes of a request line and headers, or of the trailers after a body in chunks.
        tls_handshake_timeout: from the connection's start to the end of its handshake.
        flush_timeout: in which a slow client must take some of what was written before a close.
    """

    header_timeout: float
    keep_alive_timeout: float
    max_header_size: int
    tls_handshake_timeout: float = _TLS_HANDSHAKE_TIMEOUT
    flush_timeout: float = _FLUSH_TIMEOUT


def connection_limits(config: ServerConfig) -> ConnectionLimits:
    """Return the listeners' part of the configuration."""
    return ConnectionLimits(
        header_timeout=config.header_timeout,
        keep_alive_timeout=config.keep_alive_timeout,
        max_header_size=config.max_header_size,
    )


def header_size(target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the bytes that count towards `max_header_size`."""
    return len(target) + sum(len(name) + len(value) + _SEPARATORS for name, value in headers)

"""The ASGI servers: hypercorn and uvicorn behind one function, inside the loop that is already running."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from socket import socket
from typing import Any, Literal

from frame.config.forms import Address
from frame.errors import ConfigError
from frame.http.connection_limits import ConnectionLimits
from frame.http.listening import listening
from frame.http.tls import TlsFiles, server_context

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
ServerName = Literal["hypercorn", "uvicorn"]

H2_MAX_STREAMS = 128  # RFC 9113 advises at least 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What a server needs to run; `sockets` listen already and are closed by who made them.

    Attributes:
        graceful_timeout: seconds from `stop` until unfinished requests are cut.
    """

    app: AsgiApp
    sockets: Sequence[socket]
    context: ssl.SSLContext | None
    stop: asyncio.Event
    ready: Callable[[], None]
    graceful_timeout: float
    limits: ConnectionLimits


async def serve(
    app: AsgiApp,
    *,
    address: Address,
    server: ServerName,
    tls: TlsFiles | None,
    stop: asyncio.Event,
    ready: Callable[[list[str]], None],
    graceful_timeout: float,
    limits: ConnectionLimits,
) -> None:
    """Serve `app` on `address` until `stop` is set and what was begun is answered.

    Signals stay with the caller, lifespan events are not sent, access is not logged. HTTP/1.1 on both;
    HTTP/2 on hypercorn alone, by ALPN over TLS and with prior knowledge (h2c) without.

    Args:
        app: called for scope type `http` only; it never sees a WebSocket.
        address: port 0 lets the kernel choose.
        server: which one.
        tls: certificate for an `https` address; None makes a self-signed one.
        stop: once set, no connection is accepted, idle ones close, and the answers under way are finished.
        ready: called once when connections are accepted, with the addresses, ports filled in.
        graceful_timeout: seconds after `stop` at which unfinished requests are cut; `serve` returns then.
        limits: of every connection.

    Raises:
        ListenError: the address cannot be listened on.
        ConfigError: the certificate cannot be used, or the server is not installed.
    """
    if server == "uvicorn":
        _require_uvicorn()
        from frame.http.uvicorn_lane import run_uvicorn as run  # noqa: PLC0415  # optional
    else:
        from frame.http.hypercorn_lane import run_hypercorn as run  # noqa: PLC0415  # only the one in use
    alpn = ("http/1.1",) if server == "uvicorn" else ("h2", "http/1.1")
    context = server_context(tls, alpn=alpn, host=address.host) if address.is_tls else None
    with listening(address) as (sockets, urls):
        listener = Listener(
            app=_http_only(app),
            sockets=sockets,
            context=context,
            stop=stop,
            ready=lambda: ready(urls),
            graceful_timeout=graceful_timeout,
            limits=limits,
        )
        await run(listener)


def _require_uvicorn() -> None:
    try:
        for package in ("uvicorn", "httptools"):
            import_module(package)
    except ImportError as error:
        text = f"http_server=uvicorn: {error.name} is not installed; pip install frame-core[uvicorn]"
        raise ConfigError(text) from error


def _http_only(app: AsgiApp) -> AsgiApp:
    """Refuse WebSockets (403) before they reach `app`."""

    async def http_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

    return http_app

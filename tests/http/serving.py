"""Serve an ASGI app on a port that the kernel chose, for the time of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from frame.config.forms import parse_address
from frame.http.connection_limits import ConnectionLimits
from frame.http.servers import AsgiApp, Receive, Scope, Send, ServerName, serve
from frame.http.tls import TlsFiles

DEADLINE = 10.0  # seconds until a test gives up waiting
LIMITS = ConnectionLimits(header_timeout=60.0, keep_alive_timeout=75.0, max_header_size=64 * 1024)
SERVERS: tuple[ServerName, ...] = ("hypercorn", "uvicorn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server: its addresses, its stop event and its task."""

    urls: list[str]
    stop: asyncio.Event
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        return self.urls[0]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a bare connection."""
        target = urlsplit(self.url)
        return await asyncio.open_connection(target.hostname, target.port)


@contextlib.asynccontextmanager
async def served(
    app: AsgiApp,
    *,
    server: ServerName,
    address: str = "http://127.0.0.1:0",
    tls: TlsFiles | None = None,
    graceful_timeout: float = 5.0,
    limits: ConnectionLimits = LIMITS,
) -> AsyncIterator[Served]:
    """Serve `app` while the context lasts; leaving it stops the server and waits for its end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    ready: asyncio.Future[list[str]] = loop.create_future()
    running = serve(
        app,
        address=parse_address(address),
        server=server,
        tls=tls,
        stop=stop,
        ready=ready.set_result,
        graceful_timeout=graceful_timeout,
        limits=limits,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(running)
        waited: set[asyncio.Future[Any]] = {task, ready}
        await asyncio.wait(waited, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        try:
            yield Served(urls=ready.result(), stop=stop, task=task)
        finally:
            stop.set()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's scenario on the loop that the server uses, with a deadline."""
    uvloop.run(asyncio.wait_for(scenario, 2 * DEADLINE))


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), DEADLINE)


async def read_body(receive: Receive) -> bytes | None:
    """Read a request's body; None when the client went away."""
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += bytes(event.get("body", b""))
        if not event.get("more_body", False):
            return body


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the HTTP version and the body that came."""
    body = await read_body(receive)
    await answer(send, scope["http_version"].encode() + b" " + (body or b""))


def pem_pair(folder: Path, host: str = "localhost") -> TlsFiles:
    """Write a self-signed certificate and its key as PEM files."""
    from frame.http.tls import self_signed

    chain, key = self_signed(host)
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    return TlsFiles(certificate_file=str(folder / "cert.pem"), private_key_file=str(folder / "key.pem"))

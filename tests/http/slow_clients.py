"""Clients that take their time, and what the tests of limits on connections share."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from frame.http.connection_limits import ConnectionLimits
from frame.http.servers import AsgiApp, ServerName
from frame.http.tls import TlsFiles

from tests.http.serving import DEADLINE, LIMITS, Served, echo, run, served

SHORT = 0.3  # seconds; what is not meant has a limit that no test waits for
PACE = 0.02  # seconds between the bytes of a slow client
SHORT_IDLE = replace(LIMITS, keep_alive_timeout=SHORT)
SMALL = replace(LIMITS, max_header_size=4096)
Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]

with_and_without_tls = pytest.mark.parametrize("is_tls", [False, True])


@contextlib.asynccontextmanager
async def connected(
    running: Served, files: TlsFiles | None, alpn: str = "http/1.1"
) -> AsyncIterator[Connected]:
    context = None
    if files is not None:
        context = ssl.create_default_context(cafile=files.certificate_file)
        context.set_alpn_protocols([alpn])
    target = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(
        target.hostname, target.port, ssl=context, server_hostname="localhost" if context else None
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Wait until the server closes and return what came before."""
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE)
    except ConnectionResetError:
        return b""


async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send one byte after the other, the last one again and again, until the server closes."""
    ending = asyncio.ensure_future(ended(reader))
    sent = 0
    while not (await asyncio.wait({ending}, timeout=PACE))[0]:
        writer.write(data[sent : sent + 1] or data[-1:])
        sent += 1
    return ending.result()


def run_with(
    scenario: Callable[[Served, TlsFiles | None], Awaitable[None]],
    server: ServerName,
    limits: ConnectionLimits,
    *,
    files: TlsFiles | None = None,
    app: AsgiApp = echo,
) -> None:
    """Serve `app` on a loopback address for a scenario."""

    async def all_of_it() -> None:
        address = "https://127.0.0.1:0" if files else "http://127.0.0.1:0"
        async with served(app, server=server, limits=limits, address=address, tls=files) as running:
            await scenario(running, files)

    run(all_of_it())

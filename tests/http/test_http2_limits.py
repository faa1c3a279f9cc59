"""Limits on idle HTTP/2 connections and on the bytes of their headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from frame.http.connection_limits import ConnectionLimits
from frame.http.servers import Receive, Scope, Send
from frame.http.tls import TlsFiles
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated

from tests.http.serving import DEADLINE, LIMITS, Served, answer, pem_pair, read_body
from tests.http.slow_clients import (
    SHORT_IDLE,
    SMALL,
    connected,
    dribble,
    ended,
    run_with,
    with_and_without_tls,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return pem_pair(tmp_path_factory.mktemp("tls"))


class _H2Client:
    """The bytes of an HTTP/2 client, one step at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.state = H2Connection(H2Configuration(client_side=True))
        self.state.initiate_connection()

    def flush(self) -> None:
        self.writer.write(self.state.data_to_send())

    def send_headers(self, *more: tuple[str, str], end_stream: bool) -> int:
        stream = self.state.get_next_available_stream_id()
        fields = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "h"), *more]
        self.state.send_headers(stream, fields, end_stream=end_stream)
        return int(stream)

    async def ended(self) -> bool:
        """Wait until the server closes; tell whether it said so before."""
        data = await ended(self.reader)
        return any(isinstance(event, ConnectionTerminated) for event in self.state.receive_data(data))


async def _echo_to_who_stays(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    if body is not None:
        await answer(send, b"2 " + body)


async def _nothing(client: _H2Client) -> None:
    client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


async def _settings_alone(client: _H2Client) -> None:
    client.flush()


async def _half_a_header(client: _H2Client) -> None:
    client.flush()
    client.send_headers(end_stream=True)
    client.writer.write(client.state.data_to_send()[:-3])


async def _stream_given_up(client: _H2Client) -> None:
    stream = client.send_headers(end_stream=False)
    client.flush()
    client.state.reset_stream(stream)
    client.flush()


async def _stream_answered(client: _H2Client) -> None:
    client.send_headers(end_stream=True)
    client.flush()


@with_and_without_tls
@pytest.mark.parametrize(
    "step", [_nothing, _settings_alone, _half_a_header, _stream_given_up, _stream_answered]
)
def test_idle_http_2_connection_is_closed(
    is_tls: bool, step: Callable[[_H2Client], Awaitable[None]], files: TlsFiles
) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files, "h2") as (reader, writer):
            client = _H2Client(reader, writer)
            await step(client)
            assert await client.ended()

    run_with(scenario, "hypercorn", SHORT_IDLE, files=files if is_tls else None, app=_echo_to_who_stays)


def test_pings_do_not_keep_an_http_2_connection() -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            client = _H2Client(reader, writer)
            client.flush()
            client.state.ping(bytes(8))
            ping = client.state.data_to_send()
            assert await dribble(reader, writer, ping * 1000) != b""

    run_with(scenario, "hypercorn", SHORT_IDLE)


@pytest.mark.parametrize("limits", [SMALL, replace(LIMITS, max_header_size=70_000)], ids=["small", "large"])
def test_http_2_headers_above_max_header_size_end_the_connection(limits: ConnectionLimits) -> None:
    """HPACK's state is lost with a list that is not read to its end: no stream could go on."""

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            client = _H2Client(reader, writer)
            client.send_headers(("x-long", "y" * (limits.max_header_size - 1000)), end_stream=True)
            client.flush()
            client.state.receive_data(await asyncio.wait_for(reader.readuntil(b"2 "), DEADLINE))
            client.send_headers(("x-longer", "y" * (limits.max_header_size + 1)), end_stream=True)
            client.flush()
            assert await client.ended()

    run_with(scenario, "hypercorn", limits)


def test_headers_that_unpack_to_far_more_end_the_connection() -> None:
    """A kilobyte that names one long field of the table a thousand times."""

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            client = _H2Client(reader, writer)
            long = ("x-long", "y" * 2000)
            client.send_headers(long, end_stream=True)
            client.flush()
            client.state.receive_data(await asyncio.wait_for(reader.readuntil(b"2 "), DEADLINE))
            client.send_headers(*[long] * 1000, end_stream=True)
            sent = client.state.data_to_send()
            assert len(sent) < 2000
            writer.write(sent)
            assert await client.ended()

    run_with(scenario, "hypercorn", LIMITS)

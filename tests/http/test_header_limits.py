"""Limits on a connection's time and on the bytes of headers, on both servers, with TLS and without."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from frame.config.files import load_server_config
from frame.errors import ConfigError
from frame.http.connection_limits import ConnectionLimits, connection_limits
from frame.http.servers import Receive, Scope, Send, ServerName
from frame.http.tls import TlsFiles

from tests.http.serving import DEADLINE, LIMITS, SERVERS, Served, answer, echo, pem_pair, run, served, until
from tests.http.slow_clients import (
    SHORT,
    SHORT_IDLE,
    SMALL,
    connected,
    dribble,
    ended,
    run_with,
    with_and_without_tls,
)

SHORT_HEADERS = replace(LIMITS, header_timeout=SHORT)
REQUEST = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"

both = pytest.mark.parametrize("server", SERVERS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return pem_pair(tmp_path_factory.mktemp("tls"))


@both
@with_and_without_tls
def test_connection_on_which_nothing_comes_is_closed(
    server: ServerName, is_tls: bool, files: TlsFiles
) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, _):
            assert await ended(reader) == b""

    run_with(scenario, server, SHORT_IDLE, files=files if is_tls else None)


@both
@with_and_without_tls
@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "later"])
def test_half_a_header_is_closed(server: ServerName, is_tls: bool, before: bytes, files: TlsFiles) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            if before:
                writer.write(before)
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n1.1 "), DEADLINE)
            writer.write(b"GET / HTTP/1.1\r\nhost: ")
            assert await ended(reader) == b""

    run_with(scenario, server, SHORT_HEADERS, files=files if is_tls else None)


@both
@with_and_without_tls
def test_header_byte_by_byte_is_closed(server: ServerName, is_tls: bool, files: TlsFiles) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            assert await dribble(reader, writer, b"GET / HTTP/1.1\r\nhost: hhhh") == b""

    run_with(scenario, server, SHORT_HEADERS, files=files if is_tls else None)


@both
@with_and_without_tls
def test_idle_connection_is_closed(server: ServerName, is_tls: bool, files: TlsFiles) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            for _ in range(3):
                writer.write(REQUEST)
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n1.1 "), DEADLINE)
            assert await ended(reader) == b""

    run_with(scenario, server, SHORT_IDLE, files=files if is_tls else None)


@both
def test_tls_handshake_that_does_not_come_is_closed(server: ServerName, files: TlsFiles) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, None) as (reader, _):
            assert await ended(reader) == b""

    run_with(scenario, server, replace(LIMITS, tls_handshake_timeout=SHORT), files=files)


@both
def test_empty_lines_between_requests_do_not_keep_a_connection(server: ServerName) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(REQUEST)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n1.1 "), DEADLINE)
            got = await dribble(reader, writer, b"\r\n" * 10_000)
            assert got == b"" or got.startswith(b"HTTP/1.1 400")

    run_with(scenario, server, replace(SHORT_IDLE, header_timeout=SHORT))


@both
def test_body_of_an_answered_request_does_not_keep_a_connection(server: ServerName) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"too large", 413)

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\nx")
            await asyncio.wait_for(reader.readuntil(b"too large"), DEADLINE)
            writer.write(b"x")
            assert await ended(reader) == b""

    run_with(scenario, server, SHORT_IDLE, app=refuse)


@both
def test_half_a_header_behind_a_request_waits_for_its_answer(server: ServerName) -> None:
    """And no longer than headers may take after it."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await until(go_on)
        await echo(scope, receive, send)

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(REQUEST + b"GET / HTTP")
            await until(entered)
            early = asyncio.ensure_future(reader.read(1))
            assert not (await asyncio.wait({early}, timeout=2 * SHORT))[0], "answered or closed too early"
            go_on.set()
            assert (await asyncio.wait_for(early, DEADLINE)) + await ended(reader) != b""
            assert early.result() == b"H"

    run_with(scenario, server, SHORT_HEADERS, app=slow)


@both
@pytest.mark.parametrize("line", [b"x-long: " + b"y" * 5000, b"x: y\r\n" * 1500], ids=["one", "many"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_headers_above_max_header_size_are_431(server: ServerName, line: bytes, is_whole: bool) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n" + line + (b"\r\n\r\n" if is_whole else b""))
            assert (await ended(reader)).startswith(b"HTTP/1.1 431 ")

    run_with(scenario, server, SMALL)


@both
def test_target_above_max_header_size_is_431(server: ServerName) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: h\r\n\r\n")
            assert (await ended(reader)).startswith(b"HTTP/1.1 431 ")

    run_with(scenario, server, SMALL)


@both
def test_headers_behind_a_large_body_are_counted_by_themselves(server: ServerName) -> None:
    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            body = bytes(100_000)
            head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body + head[:30])
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n1.1 "), DEADLINE)
            await asyncio.wait_for(reader.readexactly(len(body)), DEADLINE)
            writer.write(head[30:] + body)
            assert (await asyncio.wait_for(reader.readline(), DEADLINE)).startswith(b"HTTP/1.1 200 ")

    run_with(scenario, server, SMALL)


@both
@pytest.mark.parametrize("trailers", [b"x: y\r\n" * 200_000, b"x: " + b"y" * 1_000_000], ids=["many", "long"])
def test_trailers_above_max_header_size_end_the_connection(server: ServerName, trailers: bytes) -> None:
    seen: list[int] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            seen.append(len(scope["headers"]))

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
            writer.write(trailers)
            got = await ended(reader)
            assert got == b"" or got.startswith(b"HTTP/1.1 431 ")
        assert set(seen) <= {2}

    run_with(scenario, server, SMALL, app=reading)


@both
def test_trailers_are_no_headers(server: ServerName) -> None:
    async def name_headers(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(send, b" ".join(name for name, _ in scope["headers"]))

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
            writer.write(b"authorization: Bearer late\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"host transfer-encoding"), DEADLINE)
            writer.write(REQUEST)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\nhost"), DEADLINE)).startswith(
                b"HTTP/1.1"
            )

    run_with(scenario, server, LIMITS, app=name_headers)


def test_client_that_takes_no_answer_is_dropped() -> None:
    """Uvicorn alone holds the rest of an answer; with hypercorn the app waits, and its own limits count."""
    answered = asyncio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(64_000_000))  # more than the kernel holds
        answered.set()

    async def scenario() -> None:
        limits = replace(SHORT_IDLE, flush_timeout=SHORT)
        async with (
            served(large, server="uvicorn", limits=limits, graceful_timeout=1000.0) as running,
            connected(running, None) as (_, writer),
        ):
            writer.write(REQUEST)
            await until(answered)
            running.stop.set()
            await asyncio.wait_for(running.task, DEADLINE)

    run(scenario())


def test_client_that_takes_its_answer_slowly_is_not_dropped() -> None:
    size = 64_000_000

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(size))

    async def scenario(running: Served, files: TlsFiles | None) -> None:
        async with connected(running, files) as (reader, writer):
            writer.write(REQUEST)
            taken = len(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE))
            paced = asyncio.Event()
            for _ in range(8):
                taken += len(await asyncio.wait_for(reader.readexactly(6_000_000), DEADLINE))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(paced.wait(), SHORT)
            assert taken + len(await ended(reader)) > size

    run_with(scenario, "uvicorn", replace(SHORT_IDLE, flush_timeout=2 * SHORT), app=large)


def _limits_of(**variables: str) -> ConnectionLimits:
    return connection_limits(load_server_config(None, {}, variables, lenient=False))


def test_limits_are_settings() -> None:
    limits = _limits_of(
        SERVING_HEADER_TIMEOUT="1.5", SERVING_KEEP_ALIVE_TIMEOUT="2", SERVING_MAX_HEADER_SIZE="2048"
    )
    assert limits == ConnectionLimits(header_timeout=1.5, keep_alive_timeout=2.0, max_header_size=2048)
    assert _limits_of() == LIMITS


@pytest.mark.parametrize("name", ["HEADER_TIMEOUT", "KEEP_ALIVE_TIMEOUT", "MAX_HEADER_SIZE"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "never"])
def test_limit_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name.lower()):
        _limits_of(**{f"SERVING_{name}": value})

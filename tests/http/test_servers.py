"""Both servers, on real sockets: what `serve` promises."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import httpx
import pytest
from frame.http.listening import ListenError
from frame.http.servers import Receive, Scope, Send, ServerName

from tests.http.serving import DEADLINE, LIMITS, SERVERS, answer, echo, read_body, run, served, until

both = pytest.mark.parametrize("server", SERVERS)


class Gate:
    """An app that answers when it is told to, and notes how each call ended."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await answer(send, b"late but whole")


@both
def test_request_is_answered_over_http_1_1(server: ServerName) -> None:
    async def scenario() -> None:
        async with served(echo, server=server) as running, httpx.AsyncClient() as client:
            got = await client.post(running.url, content=b"hello")
        assert (got.status_code, got.content, got.http_version) == (200, b"1.1 hello", "HTTP/1.1")
        assert "date" in got.headers
        assert "server" not in got.headers

    run(scenario())


@both
def test_connection_is_kept_for_many_requests(server: ServerName) -> None:
    async def scenario() -> None:
        async with served(echo, server=server) as running:
            reader, writer = await running.connect()
            for number in range(1200):
                writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n%04d" % number)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
                assert b"connection: close" not in head
                assert await reader.readexactly(8) == b"1.1 %04d" % number
            writer.close()

    run(scenario())


@both
def test_pipelined_requests_are_answered_in_order(server: ServerName) -> None:
    async def scenario() -> None:
        async with served(echo, server=server) as running:
            reader, writer = await running.connect()
            requests = [b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\n%d" % n for n in range(5)]
            writer.write(b"".join(requests))
            for number in range(5):
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
                assert await reader.readexactly(5) == b"1.1 %d" % number
            writer.close()

    run(scenario())


@both
def test_large_body_arrives_whole(server: ServerName) -> None:
    async def scenario() -> None:
        body = bytes(range(256)) * 40_000
        async with served(echo, server=server) as running, httpx.AsyncClient(timeout=DEADLINE) as client:
            got = await client.post(running.url, content=body)
        assert got.content == b"1.1 " + body

    run(scenario())


@both
def test_streamed_answer_arrives_piece_by_piece(server: ServerName) -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await until(go_on)  # set only when the client has the first piece
            await send({"type": "http.response.body", "body": b"two", "more_body": False})

        pieces = []
        async with (
            served(app, server=server) as running,
            httpx.AsyncClient() as client,
            client.stream("GET", running.url) as got,
        ):
            async for piece in got.aiter_raw():
                pieces.append(piece)
                go_on.set()
        assert pieces == [b"one", b"two"]

    run(scenario())


@both
def test_app_that_fails_answers_500_and_the_server_goes_on(server: ServerName) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            raise RuntimeError("the inner secret")
        await echo(scope, receive, send)

    async def scenario() -> None:
        async with served(app, server=server) as running, httpx.AsyncClient() as client:
            bad = await client.get(f"{running.url}/bad")
            good = await client.get(f"{running.url}/good")
        assert (bad.status_code, good.status_code) == (500, 200)
        assert b"secret" not in bad.content

    run(scenario())


@both
def test_app_hears_that_the_client_went_away(server: ServerName) -> None:
    async def scenario() -> None:
        entered, gone = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await read_body(receive)
            entered.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            assert (await receive())["type"] == "http.disconnect"
            gone.set()

        async with served(app, server=server) as running:
            _, writer = await running.connect()
            writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await until(entered)
            writer.close()
            await until(gone)

    run(scenario())


@both
def test_answer_before_the_end_of_the_body_reaches_the_client(server: ServerName) -> None:
    """And the connection ends, instead of waiting for an app that will not read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send, b"too large", 413)

    async def scenario() -> None:
        async with served(app, server=server) as running:
            reader, writer = await running.connect()
            writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 16000000\r\n\r\n")
            for _ in range(8):
                writer.write(bytes(1_000_000))
                await asyncio.wait_for(writer.drain(), DEADLINE)
            for _ in range(8):
                writer.write(bytes(1_000_000))
                await asyncio.wait_for(writer.drain(), DEADLINE)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
            assert head.startswith(b"HTTP/1.1 413")
            assert await reader.readexactly(9) == b"too large"
            writer.close()

    run(scenario())


@both
@pytest.mark.parametrize("is_in_one_piece", [True, False])
def test_too_large_headers_are_refused(server: ServerName, is_in_one_piece: bool) -> None:
    async def scenario() -> None:
        called = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            called.set()
            await echo(scope, receive, send)

        head = b"GET / HTTP/1.1\r\nhost: h\r\n" + b"x-long: " + b"y" * (3 * LIMITS.max_header_size)
        end = b"\r\n\r\n" if is_in_one_piece else b""
        async with served(app, server=server) as running:
            reader, writer = await running.connect()
            writer.write(head + end)
            answered = await asyncio.wait_for(reader.readline(), DEADLINE)
            writer.close()
        assert answered.split()[1] == b"431"
        assert not called.is_set()

    run(scenario())


@both
def test_headers_below_the_limit_pass(server: ServerName) -> None:
    async def scenario() -> None:
        headers = {"x-long": "y" * (LIMITS.max_header_size - 1000)}
        async with served(echo, server=server) as running, httpx.AsyncClient() as client:
            assert (await client.get(running.url, headers=headers)).status_code == 200
            assert (await client.post(running.url, content=bytes(200_000))).status_code == 200

    run(scenario())


@both
def test_what_is_no_http_is_refused(server: ServerName) -> None:
    async def scenario() -> None:
        async with served(echo, server=server) as running:
            reader, writer = await running.connect()
            writer.write(b"\x16\x03\x01 this is no request\r\n\r\n")
            got = await asyncio.wait_for(reader.read(), DEADLINE)
            writer.close()
        assert got.split()[1] == b"400"

    run(scenario())


@both
def test_stop_finishes_the_answer_under_way_and_takes_no_new_connection(server: ServerName) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with (
            served(gate, server=server, graceful_timeout=DEADLINE) as running,
            httpx.AsyncClient() as client,
        ):
            asking = asyncio.create_task(client.get(running.url, timeout=DEADLINE))
            await until(gate.entered)
            running.stop.set()
            await _refused(running.connect)
            assert not running.task.done()
            gate.open.set()
            got = await asyncio.wait_for(asking, DEADLINE)
            assert (got.status_code, got.content) == (200, b"late but whole")
            await asyncio.wait_for(running.task, DEADLINE)

    run(scenario())


async def _refused(connect: object) -> None:
    """Wait until connections are refused."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await connect()  # type: ignore[operator]
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0)


@both
def test_stop_ends_idle_connections_at_once(server: ServerName) -> None:
    async def scenario() -> None:
        async with served(echo, server=server, graceful_timeout=1000.0) as running:
            used = await running.connect()
            used[1].write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await asyncio.wait_for(used[0].readuntil(b"1.1 "), DEADLINE)
            fresh = await running.connect()
            running.stop.set()
            for reader, writer in (used, fresh):
                assert b"HTTP" not in await asyncio.wait_for(reader.read(), DEADLINE)
                writer.close()
            await asyncio.wait_for(running.task, DEADLINE)

    run(scenario())


@both
def test_request_beyond_the_graceful_time_is_cut(server: ServerName) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with served(gate, server=server, graceful_timeout=0.2) as running:
            _, writer = await running.connect()
            writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await until(gate.entered)
            running.stop.set()
            await asyncio.wait_for(running.task, DEADLINE)
            assert gate.cancelled.is_set()
            writer.close()

    run(scenario())


@both
def test_cancelled_serve_leaves_nothing_behind(server: ServerName) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with served(gate, server=server) as running:
            reader, writer = await running.connect()
            writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await until(gate.entered)
            running.task.cancel()
            await asyncio.wait({running.task}, timeout=DEADLINE)
            assert running.task.cancelled()
            assert gate.cancelled.is_set()
            await _refused(running.connect)
            with contextlib.suppress(ConnectionError):
                assert b"late but whole" not in await asyncio.wait_for(reader.read(), DEADLINE)
            writer.close()

    run(scenario())


@both
def test_signals_stay_with_the_caller(server: ServerName) -> None:
    async def scenario() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with served(echo, server=server):
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    run(scenario())


@both
def test_port_in_use_is_an_error_that_says_what_to_do(server: ServerName) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ExceptionGroup) as caught:
                async with served(echo, server=server, address=address):
                    raise AssertionError("it must not start")
        (error,) = caught.value.exceptions
        assert isinstance(error, ListenError)
        assert address in str(error)
        assert "the port is in use" in str(error)

    run(scenario())


@both
def test_unix_socket_is_served(server: ServerName, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "frame.sock"
        async with served(echo, server=server, address=f"unix:{path}") as running:
            assert running.urls == [f"unix:{path}"]
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport) as client:
                got = await client.post("http://frame/", content=b"x")
        assert got.content == b"1.1 x"
        assert not path.exists()

    run(scenario())


@both
def test_name_with_two_addresses_is_served_on_both(server: ServerName) -> None:
    async def scenario() -> None:
        async with (
            served(echo, server=server, address="http://localhost:0") as running,
            httpx.AsyncClient() as client,
        ):
            for url in running.urls:
                assert (await client.get(url)).status_code == 200

    run(scenario())


@both
def test_websocket_is_refused(server: ServerName) -> None:
    upgrade = (
        b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    async def scenario() -> None:
        async with served(echo, server=server) as running:
            reader, writer = await running.connect()
            writer.write(upgrade)
            status = (await asyncio.wait_for(reader.readline(), DEADLINE)).split()[1]
            writer.close()
        # uvicorn has no WebSocket here and takes it for an ordinary GET, as RFC 9110 (7.8) allows.
        assert status == (b"403" if server == "hypercorn" else b"200")

    run(scenario())

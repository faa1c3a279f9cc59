"""HTTP/2, which hypercorn alone speaks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from frame.http.servers import Receive, Scope, Send
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.http.serving import DEADLINE, answer, echo, pem_pair, run, served, until


def _client(url: str, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    # http1=False over http:// is prior knowledge: no upgrade, no ALPN.
    return httpx.AsyncClient(base_url=url, http1=False, http2=True, verify=verify, timeout=DEADLINE)


def test_prior_knowledge_speaks_http_2_without_tls() -> None:
    async def scenario() -> None:
        async with served(echo, server="hypercorn") as running, _client(running.url) as client:
            got = await client.post("/", content=b"hello")
        assert (got.http_version, got.content) == ("HTTP/2", b"2 hello")

    run(scenario())


def test_alpn_chooses_http_2_or_1_1(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = pem_pair(tmp_path)
        trust = ssl.create_default_context(cafile=files.certificate_file)
        async with served(echo, server="hypercorn", address="https://localhost:0", tls=files) as running:
            url = f"https://localhost:{running.url.rsplit(':', 1)[1]}"
            for is_http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
                async with httpx.AsyncClient(http2=is_http2, verify=trust) as client:
                    got = await client.post(url, content=b"x")
                    assert got.http_version == version

    run(scenario())


def test_many_streams_of_one_connection_are_answered() -> None:
    async def scenario() -> None:
        async with served(echo, server="hypercorn") as running, _client(running.url) as client:
            calls = [client.post("/", content=b"%d" % number) for number in range(100)]
            answers = await asyncio.gather(*calls)
        assert [got.content for got in answers] == [b"2 %d" % number for number in range(100)]

    run(scenario())


def test_early_answer_to_one_stream_leaves_the_others_alone() -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/early":
                await answer(send, b"too large", 413)
            else:
                await until(go_on)
                await echo(scope, receive, send)

        async def long_body() -> AsyncIterator[bytes]:
            for _ in range(150):  # more than the connection holds for an app that does not read
                yield bytes(16_000)

        async with served(app, server="hypercorn") as running, _client(running.url) as client:
            slow = asyncio.create_task(client.post("/slow", content=b"x"))
            early = await client.post("/early", content=long_body())
            go_on.set()
            assert (await slow).content == b"2 x"
            again = await client.post("/slow", content=bytes(300_000))
        assert early.status_code == 413
        assert len(again.content) == 300_002

    run(scenario())


def test_app_that_never_reads_a_long_body_does_not_hold_up_its_connection() -> None:
    async def scenario() -> None:
        filled = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/unread":
                await until(filled)
                await answer(send, b"busy", 503)
            else:
                await echo(scope, receive, send)

        async def long_body() -> AsyncIterator[bytes]:
            for number in range(600):
                if number * 4000 > 1024 * 1024:  # the queue is full, and the server waits for the app
                    filled.set()
                yield bytes(4000)

        async with served(app, server="hypercorn") as running, _client(running.url) as client:
            assert (await client.post("/unread", content=long_body())).status_code == 503
            assert (await client.post("/read", content=b"x")).content == b"2 x"

    run(scenario())


def test_stream_whose_app_breaks_off_is_reset() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("model failed")

    async def scenario() -> None:
        async with served(app, server="hypercorn") as running, _client(running.url) as client:
            try:
                await asyncio.wait_for(client.get("/"), DEADLINE)
            except httpx.RemoteProtocolError as error:
                text = str(error)
        assert "StreamReset" in text

    run(scenario())


def test_client_that_goes_while_the_answer_waits_for_its_window_frees_the_connection() -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for _ in range(100):
                    await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            finally:
                ended.set()

        async with served(app, server="hypercorn", graceful_timeout=1000.0) as running:
            reader, writer = await running.connect()
            writer.write(_get_request())
            async with asyncio.timeout(DEADLINE):
                await reader.readexactly(65_535)  # the window that HTTP/2 starts with, and nothing after it
            writer.transport.abort()
            await until(ended)

    run(scenario())


def _get_request() -> bytes:
    """A client's first bytes: preface, settings, GET /."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    headers = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "h")]
    client.send_headers(1, headers, end_stream=True)
    return client.data_to_send()


def test_stop_finishes_the_streams_under_way() -> None:
    async def scenario() -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            entered.set()
            await until(go_on)
            await echo(scope, receive, send)

        async with served(app, server="hypercorn", graceful_timeout=DEADLINE) as running:
            async with _client(running.url) as client:
                asking = asyncio.create_task(client.post("/", content=b"x"))
                await until(entered)
                running.stop.set()
                go_on.set()
                assert (await asking).content == b"2 x"
            await asyncio.wait_for(running.task, DEADLINE)

    run(scenario())

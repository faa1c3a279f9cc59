"""With `access_log=true` each request is one line, however it ends."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from frame.http.access_log import AccessLog
from frame.http.servers import Receive, Scope, Send

LINE = re.compile(
    r"request_ended client=(\S+) method=(\S+) path=(\S+) status=(\d+) bytes=(\d+) "
    r"seconds=[\d.]+ request=(\S+)"
)


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in two pieces."""
    headers = [(b"x-request-id", b"id of 1"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    await send({"type": "http.response.body", "body": b"de"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Break before the answer."""
    raise ConnectionResetError


def line(caplog: pytest.LogCaptureFixture, app: Any, path: str = "/a", **facts: Any) -> tuple[str, ...]:
    """Return the facts of the one line that a request makes."""
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": path, "client": ("10.0.0.7", 1234), **facts}
    with caplog.at_level(logging.INFO, logger="frame.access"):
        asyncio.run(AccessLog(app)(scope, receive, send))
    (record,) = caplog.records
    found = LINE.fullmatch(record.getMessage())
    assert found is not None, record.getMessage()
    assert len(sent) == (3 if app is answering else 0)
    return found.groups()


def test_each_request_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    assert line(caplog, answering) == ("10.0.0.7", "POST", "/a", "201", "5", "id%20of%201")


def test_a_request_without_an_answer_is_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionResetError):
        line(caplog, failing)
    (record,) = caplog.records
    assert "status=499 bytes=0" in record.getMessage()


def test_what_a_client_writes_makes_no_second_line(caplog: pytest.LogCaptureFixture) -> None:
    _, method, path, *_ = line(
        caplog, answering, "/a\nrequest_ended client=x \x1b[31m", method="G\nET", client=None
    )
    assert (method, path) == ("G%0AET", "/a%0Arequest_ended%20client=x%20%1B[31m")

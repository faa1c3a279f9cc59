"""One line of the log for each request (`access_log=true`)."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from frame.http.answers import REQUEST_ID_HEADER
from frame.http.servers import AsgiApp, Message, Receive, Scope, Send

_log = logging.getLogger("frame.access")
_LONGEST = 200
_SAFE = "/:@!$&'()*+,;=-._~%[]"
_UNANSWERED = 499
"""Status of a request whose client went away before its answer began, as nginx's."""


class AccessLog:
    """An ASGI app around another; writes a line when a request has ended, however it did."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request by the app, and note it."""
        exchange = _Exchange(send)
        started = time.perf_counter()
        try:
            await self._app(scope, receive, exchange.send)
        finally:
            seconds = time.perf_counter() - started
            client = scope.get("client")
            _log.info(
                "request_ended client=%s method=%s path=%s status=%d bytes=%d seconds=%.6f request=%s",
                client[0] if client else "-",
                quote(scope["method"][:_LONGEST], safe=""),
                quote(scope["path"][:_LONGEST], safe=_SAFE),
                exchange.status,
                exchange.size_bytes,
                seconds,
                exchange.request_id,
            )


class _Exchange:
    """Sees what is sent."""

    __slots__ = ("_send", "request_id", "size_bytes", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = _UNANSWERED
        self.size_bytes = 0
        self.request_id = "-"

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                if name == REQUEST_ID_HEADER:
                    self.request_id = quote(value.decode("latin-1"), safe=_SAFE)
        else:
            self.size_bytes += len(message.get("body", b""))
        await self._send(message)

"""The one ASGI callable of a listener: inference paths to the data plane, all others to the control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from frame.errors import ModelNotFoundError
from frame.http.answers import JSON_TYPE, common_headers, error_body, request_id_from
from frame.http.dataplane import DataPlane
from frame.http.guard import Guard, Refusal
from frame.http.invocation import Headers
from frame.http.routes import Found, NoSuchPath, Resolved, RouteTable
from frame.http.servers import AsgiApp, Message, Receive, Scope, Send

_MAX_CACHED = 1024
"""Paths whose resolution is remembered; clients choose paths, so their number is bounded."""
_MAX_CACHED_PATH_BYTES = 256
_TOKEN = b"authorization"
"""Header that is ours where models need a token; their handlers do not see it."""
_NOWHERE = "/-/nowhere"
_EMPTY_OBJECT = b"{}\n"  # DJL Serving's whole answer to OPTIONS of a prediction path

Answer = Callable[[Scope, Receive, Send, Found], Awaitable[None]]


class Traces(Protocol):
    """Writes spans of requests."""

    async def serve(self, answer: Answer, scope: Scope, receive: Receive, send: Send, found: Found) -> None:
        """Answer a request within a span of its own."""

    async def close(self) -> None:
        """Send what is left."""


class FrameApp:
    """Dispatches by the route table; the control plane words 404 and 405."""

    def __init__(
        self,
        table: RouteTable,
        data_plane: DataPlane,
        control_plane: AsgiApp,
        cors: tuple[tuple[bytes, bytes], ...] = (),
        guard: Guard | None = None,
        tracing: Traces | None = None,
    ) -> None:
        """Serve `table`.

        Args:
            cors: headers for every answer.
            tracing: writes a span for each prediction; None: nobody does.
            guard: is asked about every request; None: as where no token is set.
        """
        self._table = table
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._cors = cors
        self._guard = guard or Guard()
        self._answer: Answer = data_plane if tracing is None else partial(tracing.serve, data_plane)
        self._cache: dict[tuple[str, bytes], Resolved] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = (scope["method"], scope.get("raw_path") or scope["path"].encode())
        found = self._cache.get(key)
        if found is None:
            found = self._resolve(key)
        if self._cors:
            send = _with_headers(send, self._cors)
        endpoint = found.endpoint if isinstance(found, Found) else None
        is_data = endpoint is not None and endpoint.plane == "data"
        if is_data and key[0] == "OPTIONS":
            await self._send_options(scope, send, found)  # type: ignore[arg-type]  # Found, by `endpoint`
        elif (not is_data or self._guard.guards_inference) and (
            refused := self._guard.refusal(scope, endpoint)
        ):
            await _send_refusal(scope, send, refused)
        elif not is_data:
            await self._control_plane(_as_resolved(scope, key[1], found), receive, send)
        else:
            if self._guard.guards_inference:
                scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != _TOKEN]}
            await self._answer(scope, receive, send, found)  # type: ignore[arg-type]

    def _resolve(self, key: tuple[str, bytes]) -> Resolved:
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        found = self._table.resolve(key[0], key[1].partition(b"?")[0].decode("latin-1"))
        if len(key[1]) <= _MAX_CACHED_PATH_BYTES and len(key[0]) <= _MAX_CACHED_PATH_BYTES:
            self._cache[key] = found
        return found

    async def _send_options(self, scope: Scope, send: Send, found: Found) -> None:
        """Answer OPTIONS of a prediction path, which a browser asks before its first request."""
        status, body = 200, _EMPTY_OBJECT
        try:
            if not self._guard.guards_inference:  # else only who has the token is told what there is
                self._data_plane.check_model(found)
        except ModelNotFoundError as error:
            status, body = error.status, error_body(error.status, error.type_name, str(error))
        headers: Headers = common_headers(request_id_from(scope["headers"]))
        headers += [JSON_TYPE, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _as_resolved(scope: Scope, raw_path: bytes, found: Resolved) -> Scope:
    """Return the scope with a path that the control plane cannot read otherwise than the table did.

    The table reads paths still encoded, the control plane decoded: `/%6dodels` is nowhere here and must be so
    there, since it was as such that it was let pass.
    """
    expected = raw_path.partition(b"?")[0].decode("latin-1")
    is_plain = not isinstance(found, NoSuchPath)
    if isinstance(found, Found):
        expected = found.endpoint.path
        for name, value in found.parameters.items():
            is_plain = is_plain and "/" not in value
            expected = expected.replace(f"{{{name}}}", value)
    if is_plain and scope["path"] == expected:
        return scope
    return {**scope, "path": _NOWHERE, "raw_path": _NOWHERE.encode()}


async def _send_refusal(scope: Scope, send: Send, refused: Refusal) -> None:
    body = error_body(refused.status, refused.type_name, refused.message)
    headers: Headers = common_headers(request_id_from(scope["headers"]))
    headers += [JSON_TYPE, (b"content-length", str(len(body)).encode()), *refused.headers]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, more: tuple[tuple[bytes, bytes], ...]) -> Send:
    """Return a `send` that adds headers to every answer's start."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_more

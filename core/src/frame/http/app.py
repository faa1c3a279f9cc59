"""The one ASGI callable: inference paths to the data plane, all others to the control plane."""

from __future__ import annotations

from frame.http.dataplane import DataPlane
from frame.http.routes import Found, Resolved, RouteTable
from frame.http.servers import AsgiApp, Receive, Scope, Send

_MAX_CACHED = 1024
"""Paths whose resolution is remembered; clients choose paths, so their number is bounded."""


class FrameApp:
    """Dispatches by the route table; the control plane words 404 and 405."""

    def __init__(self, table: RouteTable, data_plane: DataPlane, control_plane: AsgiApp) -> None:
        self._table = table
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._cache: dict[tuple[str, bytes], Resolved] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = (scope["method"], scope.get("raw_path") or scope["path"].encode())
        found = self._cache.get(key)
        if found is None:
            found = self._resolve(key)
        if isinstance(found, Found) and found.endpoint.plane == "data":
            await self._data_plane(scope, receive, send, found)
        else:
            await self._control_plane(scope, receive, send)

    def _resolve(self, key: tuple[str, bytes]) -> Resolved:
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        found = self._table.resolve(key[0], key[1].partition(b"?")[0].decode("latin-1"))
        self._cache[key] = found
        return found

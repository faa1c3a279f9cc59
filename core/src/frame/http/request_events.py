"""The ASGI events of one request on their way from the connection to the app."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

_QUEUE_BYTES = 1024 * 1024


class RequestEvents:
    """A queue bounded in bytes, whose writer is never stuck behind an app that does not read.

    Invariants:
        At most `most_bytes` and one chunk wait; `put` waits for room meanwhile.
        Once the app has ended (`close`) or the client has gone, `put` never waits.
        After `http.disconnect` the app gets nothing else, as often as it asks.
    """

    def __init__(self, most_bytes: int = _QUEUE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._events: deque[dict[str, Any]] = deque()
        self._size_bytes = 0
        self._is_closed = False
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()

    async def put(self, event: dict[str, Any]) -> None:
        """Hand over one event; wait while the app is behind."""
        if self._is_closed:
            return
        self._events.append(event)
        self._changed.set()
        self._size_bytes += len(event.get("body", b""))
        while (
            self._size_bytes > self._most_bytes and not self._is_closed and event["type"] != "http.disconnect"
        ):
            self._has_room.clear()
            await self._has_room.wait()

    async def get(self) -> dict[str, Any]:
        """Give the app its next event."""
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        event = self._events[0]
        if event["type"] != "http.disconnect":
            self._events.popleft()
            self._size_bytes -= len(event.get("body", b""))
            self._has_room.set()
        return event

    def close(self) -> None:
        """Drop what the app did not read, and all that is still to come."""
        self._is_closed = True
        self._events.clear()
        self._size_bytes = 0
        self._has_room.set()

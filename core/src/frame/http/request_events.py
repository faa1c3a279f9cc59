"""The ASGI events of one request on their way from the connection to the app."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

_QUEUE_BYTES = 1024 * 1024
_SMALL_BYTES = 1024  # the record of an event takes some hundred


class RequestEvents:
    """A queue bounded in bytes, whose writer is never stuck behind an app that does not read.

    Invariants:
        At most `most_bytes` and one chunk wait; `put` waits for room meanwhile.
        Small pieces that wait are one: a body of tiny chunks takes the memory of its bytes alone.
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
        if not self._is_joined(event):
            self._events.append(event)
        self._changed.set()
        self._size_bytes += len(event.get("body", b""))
        while (
            self._size_bytes > self._most_bytes and not self._is_closed and event["type"] != "http.disconnect"
        ):
            self._has_room.clear()
            await self._has_room.wait()

    def _is_joined(self, event: dict[str, Any]) -> bool:
        """Add a small piece of a body to one that waits; tell whether that was done."""
        last = self._events[-1] if self._events else event
        if last is event or not last.get("more_body") or event["type"] != "http.request":
            return False
        if len(event["body"]) >= _SMALL_BYTES:
            return False
        if not isinstance(last["body"], bytearray):
            if len(last["body"]) >= _SMALL_BYTES:
                return False
            last["body"] = bytearray(last["body"])
        last["body"] += event["body"]
        last["more_body"] = event["more_body"]
        return True

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
            if isinstance(event.get("body"), bytearray):
                event["body"] = bytes(event["body"])
        return event

    def close(self) -> None:
        """Drop what the app did not read, and all that is still to come."""
        self._is_closed = True
        self._events.clear()
        self._size_bytes = 0
        self._has_room.set()

"""Results that clients fetch later: `x-synchronous: false` begins one, `x-starting-token` asks for it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from typing import Any

from frame.errors import BadRequestError, CapacityError, WorkerDiedError
from frame.http.answers import common_headers
from frame.http.invocation import Headers
from frame.http.servers import Message, Send
from frame.pool.budget import ByteBudget

_log = logging.getLogger(__name__)
SYNCHRONOUS, STARTING_TOKEN, MAX_ITEMS = "x-synchronous", "x-starting-token", "x-max-items"
NEXT_TOKEN = b"x-next-token"
_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_TOKEN = re.compile(r"([0-9a-f-]{36})([0-9]{0,9})")
_COUNT = re.compile(r"[0-9]{1,9}")
_ENTRY_BYTES = 1024
"""What a result takes beside its bytes; a client counts its results."""
_OF_THE_REQUEST = frozenset({b"x-request-id", b"pragma", b"cache-control", b"expires", b"content-length"})


def is_later(properties: Mapping[str, str]) -> bool:
    """Tell whether a client does not wait for the answer.

    Raises:
        BadRequestError: `x-synchronous` is neither true nor false.
    """
    text = properties.get(SYNCHRONOUS)
    if text is None:
        return False
    if text.strip().lower() not in {"true", "false"}:
        raise BadRequestError(f"{SYNCHRONOUS}: {text[:20]!r} is neither true nor false")
    return text.strip().lower() == "false"


class Recording:
    """An answer as it was sent to nobody yet: its head, and what it was sent in."""

    def __init__(self, token: str, results: LaterResults) -> None:
        self.token = token
        self.status = 0
        self.headers: Headers = []
        self.items: list[bytes | memoryview] = []
        self.is_complete = False
        self.is_broken = False
        self.size_bytes = _ENTRY_BYTES
        self.expires = float("inf")
        self._results = results

    async def receive(self) -> Message:
        """Wait for ever: nobody goes away."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    async def send(self, message: Message) -> None:
        """Keep a message.

        Raises:
            CapacityError: there is no room.
        """
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            return
        body = message.get("body", b"")
        if len(body):
            self._results.take(self, len(body))
            self.items.append(body)
        self.is_complete = not message.get("more_body", False)


class LaterResults:
    """Results by token, the one that was asked for last at the end.

    Invariants: all of them together hold no more bytes than `max_bytes`: those that are complete make room,
        the oldest first. One goes `expiry` seconds after it was complete, or was last asked for.
    """

    def __init__(self, max_bytes: int, expiry: float) -> None:
        self._room = ByteBudget(max_bytes)
        self._expiry = expiry
        self._recordings: OrderedDict[str, Recording] = OrderedDict()
        self._tasks: dict[asyncio.Task[None], Recording] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes that are held."""
        return self._room.used

    def open(self) -> Recording:
        """Return a new recording.

        Raises:
            CapacityError: there is no room.
        """
        token = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        recording = Recording(token, self)
        if not self._make_room(_ENTRY_BYTES):
            raise CapacityError("too many results wait to be fetched (async_result_max_bytes)")
        self._recordings[token] = recording
        return recording

    async def begin(self, recording: Recording, work: Coroutine[Any, Any, None]) -> None:
        """Run the request of a recording on its own; return once it has begun, or was refused."""
        task = asyncio.create_task(work)
        self._tasks[task] = recording
        task.add_done_callback(self._ended)
        await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        recording = self._tasks.pop(task)
        recording.expires = time.monotonic() + self._expiry
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("async_result_broken token=%s reason=%s", recording.token[:8], error)
        if not recording.is_complete:
            recording.is_complete = recording.is_broken = True

    def take(self, recording: Recording, size_bytes: int) -> None:
        """Hold more bytes of a result.

        Raises:
            CapacityError: there is no room, or it has expired.
        """
        if recording.token not in self._recordings or not self._make_room(size_bytes):
            raise CapacityError("results take too many bytes (async_result_max_bytes)")
        recording.size_bytes += size_bytes

    def _make_room(self, size_bytes: int) -> bool:
        """Take bytes; complete results go for it, the oldest first."""
        while not self._room.take(size_bytes):
            oldest = next((item for item in self._recordings.values() if item.is_complete), None)
            if oldest is None or size_bytes > self._room.limit:
                return False
            self._drop(oldest)
        return True

    def _drop(self, recording: Recording) -> None:
        del self._recordings[recording.token]
        self._room.give_back(recording.size_bytes)

    def sweep(self, now: float) -> None:
        """Drop what has expired."""
        for recording in [item for item in self._recordings.values() if item.expires <= now]:
            self._drop(recording)

    def close(self) -> None:
        """End what still runs."""
        for task in list(self._tasks):
            task.cancel()

    # --- answers ------------------------------------------------------------------------------

    async def send_begun(self, send: Send, recording: Recording, request_id: str) -> None:
        """Answer the request that began a result: with its token, or at once where it was refused."""
        if recording.is_complete and not recording.is_broken and recording.status >= 400:  # noqa: PLR2004
            self._drop(recording)
            await _send(send, recording.status, recording.headers, recording.items)
            return
        await _send(send, 200, _head(request_id, recording.token), ())

    async def send_page(self, send: Send, properties: Mapping[str, str], request_id: str) -> None:
        """Answer a request for a result, or for its next items.

        Raises:
            BadRequestError: the token is unknown, or the number of items is none.
            WorkerDiedError: the result broke off before its end.
        """
        recording, start = self._find(properties[STARTING_TOKEN])
        end = min(len(recording.items), start + _most(properties))
        is_last = recording.is_complete and end == len(recording.items)
        token = "" if is_last else f"{recording.token}{end or ''}"
        head = _head(request_id, token)
        if recording.is_broken and is_last and start == end:
            raise WorkerDiedError("The result broke off; what was fetched of it is all there is.")
        if not recording.status or (start == end and not is_last):
            await _send(send, 202, head, ())
            return
        if recording.is_broken and is_last:  # the next page says that it broke
            head = _head(request_id, f"{recording.token}{end}")
        own = [(name, value) for name, value in recording.headers if name not in _OF_THE_REQUEST]
        await _send(send, recording.status, [*head, *own], recording.items[start:end])

    def _find(self, text: str) -> tuple[Recording, int]:
        match = _TOKEN.fullmatch(text.strip())
        recording = None if match is None else self._recordings.get(match[1])
        start = int(match[2] or 0) if match is not None else 0
        if recording is None or start > len(recording.items):
            raise BadRequestError(f"Invalid x-starting-token: {text[:60]}")
        self._recordings.move_to_end(recording.token)
        if recording.is_complete:
            recording.expires = time.monotonic() + self._expiry
        return recording, start


def _most(properties: Mapping[str, str]) -> int:
    text = properties.get(MAX_ITEMS)
    if text is None:
        return 1 << 30
    if _COUNT.fullmatch(text.strip()) is None or int(text) < 1:
        raise BadRequestError(f"{MAX_ITEMS}: {text[:20]!r} is not a whole number above 0")
    return int(text)


def _head(request_id: str, token: str) -> Headers:
    headers = common_headers(request_id)
    if token:
        value = token.encode("ascii")
        headers += [(NEXT_TOKEN, value), (_CUSTOM_ATTRIBUTES, b"x-next-token=" + value)]
    return headers


async def _send(send: Send, status: int, headers: Headers, items: Any) -> None:
    body = b"".join(items)
    headers = [(name, value) for name, value in headers if name != b"content-length"]
    if status != 204:  # noqa: PLR2004  # it has no body
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Read a request's body within its limits: size, the server's byte budget, and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from frame.errors import BadRequestError, CapacityError, FrameError, PayloadTooLargeError
from frame.http.servers import Receive
from frame.http.turns import Turns
from frame.pool.budget import ByteBudget
from frame.pool.payload import Payload

_RETRY_AFTER = 1.0
_LARGE_BYTES = 1 << 20  # bodies from this size on take turns
_PIECES_PER_ROUND = 1  # of up to 256 KiB, which is what uvloop reads at once: a third of a millisecond


class ClientGoneError(FrameError):
    """The client closed its connection: nobody waits for an answer."""

    status = 499


class SlowBodyError(FrameError):
    """The body did not arrive in time: the client can fix it."""

    status = 408


class Intake:
    """Takes bodies in. Invariant: `release` or the failed read gives back what was taken from the budget.

    Bodies that arrive too slowly are found by `sweep`, which the owner calls every second or so: a time-out
    object for each request would cost more than reading a small body does.
    """

    def __init__(self, *, max_bytes: int, budget: ByteBudget, read_timeout: float) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._timeout = read_timeout
        self._loop = asyncio.get_running_loop()
        self._turns = Turns(_PIECES_PER_ROUND)
        self._reading: dict[asyncio.Task[object], float] = {}
        self._expired: set[asyncio.Task[object]] = set()

    async def read(self, properties: Mapping[str, str], receive: Receive) -> Payload:
        """Return the body; the caller closes it and gives its bytes back with `release`.

        Raises:
            PayloadTooLargeError: over the limit, by its header or by its bytes.
            CapacityError: the router holds too many bytes already.
            SlowBodyError, ClientGoneError: it did not come.
        """
        announced = _content_length(properties)
        self._check(announced)
        self._take(announced)
        taken = announced
        payload = Payload()
        is_complete = False
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._reading[task] = time.monotonic() + self._timeout
        try:
            more = True
            while more:
                more = await self._add_message(payload, receive)
                if more and max(announced, payload.size_bytes) >= _LARGE_BYTES:
                    await self._turns.take()
                if payload.size_bytes > taken:
                    self._check(payload.size_bytes)
                    self._take(payload.size_bytes - taken)
                    taken = payload.size_bytes
            payload.finish()
            is_complete = True
        except asyncio.CancelledError:
            if task not in self._expired:
                raise
            task.uncancel()
            raise SlowBodyError(f"body not complete within {self._timeout:g} s") from None
        finally:
            self._reading.pop(task, None)
            self._expired.discard(task)
            if not is_complete:
                payload.close()
                self._budget.give_back(taken)
        if payload.size_bytes < taken:
            self._budget.give_back(taken - payload.size_bytes)
        return payload

    async def _add_message(self, payload: Payload, receive: Receive) -> bool:
        """Take the next piece; return whether more may come."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("client closed its connection")
        payload.add(message.get("body", b""))
        return bool(message.get("more_body", False))

    def release(self, payload: Payload, size_bytes: int) -> None:
        """Free a body that `read` returned, and the room it took."""
        payload.close()
        self._budget.give_back(size_bytes)

    def sweep(self, now: float) -> None:
        """End reads that took too long."""
        for task, deadline in list(self._reading.items()):
            if deadline > now:
                return  # all have the same time: the rest began later
            self._expired.add(task)
            task.cancel()

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise PayloadTooLargeError(
                f"body of {size_bytes} bytes is over max_request_size ({self._max_bytes} bytes)"
            )

    def _take(self, size_bytes: int) -> None:
        if not self._budget.take(size_bytes):
            raise CapacityError("too many bytes are waiting (max_queued_bytes)", retry_after=_RETRY_AFTER)


def _content_length(properties: Mapping[str, str]) -> int:
    value = properties.get("content-length")
    if value is None:
        return 0
    if not value.isascii() or not value.isdigit() or len(value) > 18:  # noqa: PLR2004  # digits of an int64
        raise BadRequestError("content-length: not a number")
    return int(value)

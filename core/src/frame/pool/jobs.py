"""A request on its way through the pool, its answer, and the stream that an answer may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from frame.pool.payload import Payload
from frame.pool.tracing import JobTrace
from frame.wire.hints import NO_HINT, BatchHint
from frame.wire.messages import INITIAL_CREDITS

Body = bytes | memoryview


class StreamBrokenError(Exception):
    """The stream ended before it was complete; what was sent so far is all there is."""


class StreamStalledError(StreamBrokenError):
    """No chunk came in time: the model hangs."""


class JobStream:
    """Chunks of one answer, from the worker to the client.

    Invariants: chunks come out in the order in which they came in; a credit is granted for each one taken, so
        a worker is never more than its initial credits ahead of the client.
    """

    def __init__(self, grant: Callable[[], None], cancel: Callable[[], None]) -> None:
        self._grant = grant
        self._cancel = cancel
        self._chunks: deque[Body] = deque()
        self._has_ended = False
        self._error = ""
        self._waiter: asyncio.Future[None] | None = None

    def push(self, chunk: Body) -> None:
        """Take a chunk from the worker."""
        self._chunks.append(chunk)
        self._wake()

    def end(self, error: str = "") -> None:
        """Say that nothing more comes; `error` is what broke the stream. The first call counts."""
        if not self._has_ended:
            self._has_ended, self._error = True, error
            self._wake()

    async def next(self, timeout: float) -> Body | None:  # the wait is on a future made here
        """Return the next chunk, None at the end.

        Raises:
            StreamBrokenError: the stream broke.
            StreamStalledError: nothing came for `timeout` seconds.
        """
        while not self._chunks:
            if self._has_ended:
                if self._error:
                    raise StreamBrokenError(self._error)
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._waiter
            except TimeoutError:
                raise StreamStalledError(f"no chunk for {timeout:g} s") from None
            finally:
                self._waiter = None
        self._grant()
        return self._chunks.popleft()

    def close(self) -> None:
        """Say that nobody reads any more: the worker stops producing. Idempotent."""
        if not self._has_ended:
            self._has_ended = True
            self._cancel()
        self._chunks.clear()
        self._wake()

    @property
    def waits_for_reader(self) -> bool:
        """Whether the worker has used up its credits: the client must take a chunk before another comes."""
        return len(self._chunks) >= INITIAL_CREDITS

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True, kw_only=True)
class Answer:
    """What the client gets: a body, a stream, or an error for the protocol to word (`type_name`, no body)."""

    status: int
    message: str
    properties: dict[str, str] = field(default_factory=dict)
    body: Body | None = None
    stream: JobStream | None = None
    type_name: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request. Times are seconds of the loop's clock.

    Attributes:
        hint: what the batcher knows of it.
        deaths: groups that died with this job inside; more than 0: it runs alone.
        deadline: no longer than this in the queue and in workers together.
        limited_by: the setting or header that the deadline comes from.
        group_key, batch: where it runs now; 0 while it waits.
        watcher: told of its outcome and its seconds when it ends.
        give_up: of a workflow's: ends the batch of the step whose stream its answer passes on.
        dispatched, started, ended: when it was sent, when its batch began, and when it was answered; or 0.0.
        trace: told when it has ended.
        batch_size, inference: of the batch that answered it: requests, and seconds in the model.
    """

    id: int
    request_id: str
    properties: dict[str, str]
    parts: list[tuple[str, Payload]]
    codec: str
    priority: int
    arrived: float
    deadline: float
    answer: asyncio.Future[Answer]
    limited_by: str = "option.predict_timeout"
    hint: BatchHint = NO_HINT
    size_bytes: int = 0
    deaths: int = 0
    group_key: int = 0
    batch: int = 0
    dispatched: float = 0.0
    batch_size: int = 0
    inference: float = 0.0
    stream: JobStream | None = None
    watcher: Callable[[str, float], None] | None = None
    give_up: Callable[[], None] | None = None
    started: float = 0.0
    ended: float = 0.0
    trace: JobTrace | None = None

    def tell(self, outcome: str, seconds: float) -> None:
        """Tell the watcher, if there is one."""
        if self.watcher is not None:
            self.watcher(outcome, seconds)

    def close(self) -> None:
        """Free the payloads."""
        for _, payload in self.parts:
            payload.close()

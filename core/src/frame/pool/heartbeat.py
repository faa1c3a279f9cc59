"""Whether a worker's process answers: a sign of life that does not wait for its slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 2.0
"""Seconds between two pings."""
ANSWER_WITHIN = 1.0
"""Seconds within which a process that is asked answers; its reading thread needs 0.02 s to take over."""
_MARGIN = 0.01
"""Seconds: timers of the loop may be early by its clock's resolution."""
MOST_UNANSWERED = 5
"""Pings in a row without an answer from which on a process without work counts as hung: 10 s."""


class Heartbeat:
    """Pings a worker and knows since when it is silent; all methods run on the loop's thread.

    Invariants: from `begin` to `stop` a ping is sent each `INTERVAL`; what waits for `ask` is called once, at
        the answer or `ANSWER_WITHIN` after the question; a router that stood still itself finds nobody silent
        too long, since it counts pings and not seconds.

    Attributes:
        silent_since: when the first ping without an answer was sent; None when all have one.
    """

    def __init__(self, ping: Callable[[], None], on_silence: Callable[[], None]) -> None:
        """Wrap what sends a ping, and what is called each `INTERVAL` once `MOST_UNANSWERED` are."""
        self._ping = ping
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._waits: Callable[[], None] | None = None
        self._unanswered = 0
        self._last_beat = 0.0
        self.silent_since: float | None = None

    def begin(self) -> None:
        """Ping from now on: the worker has loaded."""
        self._last_beat = self._loop.time()
        self._timer = self._loop.call_later(INTERVAL, self._tick)

    def stop(self) -> None:
        """Ping no more. Idempotent."""
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        self._timer = self._deadline = self._waits = None

    def beat(self) -> None:
        """Take an answer, or anything else that only a process that runs can send."""
        self._last_beat = self._loop.time()
        self._unanswered = 0
        self.silent_since = None
        self._call_waiting()

    def ask(self, then: Callable[[], None]) -> None:
        """Ask at once, and call `then` when it is known whether the process answers."""
        self._waits = then
        if self.silence:
            self._call_waiting()
            return
        self._send()
        if self._waits is not None:
            self._deadline = self._loop.call_later(ANSWER_WITHIN + _MARGIN, self._call_waiting)

    @property
    def is_asking(self) -> bool:
        """Whether it is not known yet."""
        return self._waits is not None

    @property
    def silence(self) -> float:
        """Seconds since the last answer when a ping has waited too long for its own, else 0."""
        now = self._loop.time()
        if self.silent_since is None or now < self.silent_since + ANSWER_WITHIN:
            return 0.0
        return now - self._last_beat

    def _send(self) -> None:
        if self.silent_since is None:
            self.silent_since = self._loop.time()
        self._ping()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(INTERVAL, self._tick)
        if self._unanswered >= MOST_UNANSWERED:
            self._on_silence()
            return
        self._unanswered += 1
        self._send()

    def _call_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        then, self._waits = self._waits, None
        if then is not None:
            then()

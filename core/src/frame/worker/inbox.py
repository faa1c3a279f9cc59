"""Who reads the socket: an idle slot does it itself, and a helper thread while all slots compute.

A message that a second thread reads and hands over costs two wake-ups, about 50 microseconds; most batches of
a small model are shorter than that. So the first idle slot waits on the socket and runs what it reads, having
left the place to the next idle slot. Only while every slot is busy for longer than `TAKE_OVER_SECONDS` does
the helper read, so that cancellations and credits are seen during long batches and streams.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

WorkT = TypeVar("WorkT")
TAKE_OVER_SECONDS = 0.02


class Inbox(Generic[WorkT]):
    """Work for slots, in the order in which it came.

    Invariants: one thread reads at a time; work is given to one slot; while a slot waits, somebody reads; as
        many slots leave as were let go and not kept, none with work in its hands.
    """

    def __init__(self, read: Callable[[float | None], list[WorkT | None]]) -> None:
        """Wrap `read`, which waits up to a number of seconds (None: for ever) and returns the work that came.

        `read` is called by one thread at a time; a None in its list tells one slot to end.
        """
        self._read = read
        self._changed = threading.Condition()
        self._work: deque[WorkT | None] = deque()
        self._is_read = False
        self._waiting = 0
        self._leaving = 0
        self._busy_since = time.monotonic()

    def get(self, timeout: float | None = None, *, can_leave: bool = False) -> WorkT | None:
        """Return the next work, None for the end; blocks.

        Args:
            can_leave: the calling slot ends when there are too many.

        Raises:
            TimeoutError: nothing came for `timeout` seconds.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(
                    lambda: self._work or not self._is_read or (can_leave and self._leaving), timeout
                )
                if can_leave and self._leaving:
                    self._leaving -= 1
                    return None
                if self._work:
                    return self._work.popleft()
                if self._is_read:
                    raise TimeoutError
                self._is_read = True
            finally:
                self._waiting -= 1
        return self._read_one(timeout, can_leave=can_leave)

    def let_go(self, count: int) -> None:
        """Let so many slots leave as soon as they are idle. Any thread."""
        with self._changed:
            self._leaving += count
            self._changed.notify_all()

    def keep(self, count: int) -> int:
        """Let up to `count` slots stay that were let go and have not left; return how many do. Any thread."""
        with self._changed:
            kept = min(count, self._leaving)
            self._leaving -= kept
        return kept

    def _read_one(self, timeout: float | None, *, can_leave: bool) -> WorkT | None:
        """Read as the only reader until there is work; leave the place to the next slot."""
        deadline = None if timeout is None else time.monotonic() + timeout
        found: list[WorkT | None] = []
        try:
            while not found:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                found = self._read(left)
                if not found and can_leave and self._leaving and self.keep(1):
                    return None
                if not found and left is not None and time.monotonic() >= (deadline or 0.0):
                    raise TimeoutError
        finally:
            with self._changed:
                self._is_read = False
                self._busy_since = time.monotonic()
                self._work.extend(found[1:])
                if self._waiting:
                    self._changed.notify_all()
        return found[0]

    def wait_for(self, is_true: Callable[[], bool], timeout: float) -> None:
        """Wait until a message makes `is_true` so, reading where nobody else does.

        At most `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not is_true() and (left := deadline - time.monotonic()) > 0:
            with self._changed:
                if self._is_read:
                    self._changed.wait(min(left, TAKE_OVER_SECONDS))
                    continue
                if is_true():  # by what the reader before has read since: no further message may come
                    return
                self._is_read = True
            self._read_for_others(left)

    def help(self) -> None:
        """Read while all slots are busy; for ever, in a thread of its own."""
        while True:
            time.sleep(TAKE_OVER_SECONDS)  # not a condition: slots would pay for each notification
            while self._takes_over():
                self._read_for_others(TAKE_OVER_SECONDS)

    def _takes_over(self) -> bool:
        with self._changed:
            is_due = time.monotonic() - self._busy_since >= TAKE_OVER_SECONDS
            if self._is_read or self._waiting or not is_due:
                return False
            self._is_read = True
            return True

    def _read_for_others(self, timeout: float) -> None:
        """Read once as the only reader; what is work goes to the slots."""
        found: list[WorkT | None] = []
        try:
            found = self._read(timeout)
        finally:
            with self._changed:
                self._is_read = False
                self._work.extend(found)
                self._changed.notify_all()

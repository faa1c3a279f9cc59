"""Notice that a client went away while its request waits or runs.

A task that waits for the client's disconnect costs as much as a small request does, so it is started only for
requests that are older than a sweep, and for streams.
"""

from __future__ import annotations

import asyncio
import logging

from frame.http.servers import Receive
from frame.pool.jobs import Job
from frame.pool.workflow import Served

_log = logging.getLogger(__name__)
_MIN_AGE = 0.05


class Watched:
    """One waiting request."""

    __slots__ = ("_receive", "_starter", "_task", "client_is_gone", "job", "pool")

    def __init__(self, job: Job, receive: Receive, pool: Served, starter: asyncio.TaskGroup | None) -> None:
        self.job = job
        self.pool = pool
        self.client_is_gone = False
        self._receive = receive
        self._starter = starter
        self._task: asyncio.Task[None] | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Start to wait for the disconnect."""
        if self._task is None:
            self._task = tasks.create_task(self._wait())

    def begin_now(self) -> None:
        """Start at once when a sweep has run before; else the next sweep does."""
        if self._starter is not None:
            self.begin(self._starter)

    def end(self) -> None:
        """Stop waiting."""
        if self._task is not None:
            self._task.cancel()

    async def _wait(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001  # fault line: around one client's connection; a broken one is gone as well
            _log.debug("client_connection_failed", exc_info=True)
        self.client_is_gone = True
        self.pool.cancel(self.job)
        if self.job.stream is not None:
            self.job.stream.close()
            self.job.stream.end("client closed its connection")
        self.job.answer.cancel()


class ClientWatch:
    """All waiting requests, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[int, Watched] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def add(self, job: Job, receive: Receive, pool: Served) -> Watched:
        """Watch a request from the next sweep on."""
        watched = Watched(job, receive, pool, self._tasks)
        self._waiting[job.id] = watched
        return watched

    def remove(self, watched: Watched) -> None:
        """The request is answered."""
        del self._waiting[watched.job.id]
        watched.end()

    def sweep(self, now: float, tasks: asyncio.TaskGroup) -> None:
        """Start to watch what has waited long enough."""
        self._tasks = tasks
        for watched in list(self._waiting.values()):
            if watched.job.arrived > now - _MIN_AGE:
                return
            watched.begin(tasks)

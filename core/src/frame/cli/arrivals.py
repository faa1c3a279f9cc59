"""Models that are on their way: downloaded in threads of their own, and then served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from frame.cli.plans import PlannedModel
from frame.errors import FrameError, ModelNotFoundError
from frame.http.host import Registration
from frame.policy.wording import without_places
from frame.pool.manager import WorkloadManager
from frame.pool.traffic import text_of
from frame.store.fetching import Watch

_log = logging.getLogger(__name__)
_THREADS = 4
"""Models that are downloaded at the same time; further ones wait."""

Key = tuple[str, str | None]
Serve = Callable[[PlannedModel, Registration], Awaitable[str]]


class Arrivals:
    """Downloads under way, by name and version.

    Invariant: each ends with its model served, failed or forgotten.
    """

    def __init__(self, manager: WorkloadManager, plan: Callable[[Registration, Watch], PlannedModel]) -> None:
        """Bring models by `plan`, which blocks."""
        self._manager = manager
        self._plan = plan
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="arrival")
        self._under_way: dict[Key, tuple[asyncio.Task[str], Watch]] = {}

    async def plan(self, wanted: Registration) -> PlannedModel:
        """Read a model that is on this machine."""
        return await asyncio.get_running_loop().run_in_executor(None, self._plan, wanted, Watch())

    def begin(self, key: Key, wanted: Registration, serve: Serve) -> asyncio.Task[str]:
        """Download a model and serve it; the task ends with its name, or with why not."""
        loop = asyncio.get_running_loop()

        def tell(words: str) -> None:
            loop.call_soon_threadsafe(lambda: self._manager.tell(*key, reason=f"it is downloaded: {words}"))

        watch = Watch(progress=tell)
        task = loop.create_task(self._bring(key, wanted, watch, serve))
        self._under_way[key] = task, watch
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def _bring(self, key: Key, wanted: Registration, watch: Watch, serve: Serve) -> str:
        loop = asyncio.get_running_loop()
        planned = await loop.run_in_executor(self._threads, self._plan, wanted, watch)
        if watch.stop.is_set():
            raise ModelNotFoundError(f"Model {key[0]} was unregistered while it was downloaded")
        return await serve(planned, wanted)

    def _ended(self, key: Key, task: asyncio.Task[str]) -> None:
        is_last = self._under_way.get(key, (None,))[0] is task  # it may have been registered again meanwhile
        if is_last:
            del self._under_way[key]
        if task.cancelled():
            self._manager.forget_unserved(key[0], text_of(key[1]))
            return
        error = task.exception()
        if error is None:
            return
        if is_last:
            self._manager.tell(*key, status="FAILED", reason=without_places(str(error)))
        _log.error(
            "model_not_registered model=%s version=%s reason=%s",
            *(*key, error),
            exc_info=None if isinstance(error, FrameError) else error,
        )

    def stop(self, name: str, version: str | None) -> None:
        """End the downloads of a model, of one version or of all."""
        for (other, found), (_, watch) in self._under_way.items():
            if other == name and version in {None, text_of(found)}:
                watch.stop.set()

    def close(self) -> None:
        """Start nothing more, and end what is under way."""
        for _, watch in self._under_way.values():
            watch.stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

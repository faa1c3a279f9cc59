"""What workers run: an engine with an asyncio loop of its own, driven by Frame's admit and step."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Sequence

from frame.api import (
    Chunk,
    Done,
    Engine,
    Failed,
    JobId,
    ModelSpec,
    Request,
    RequestError,
    Response,
    SequenceModel,
)

from frame_chatter.plugin import ChatterOptions
from frame_chatter.toy import AsyncToyEngine

_STEP_SECONDS = 0.1
_TEXT = Response(properties={"content-type": "text/plain; charset=utf-8"})
Event = Chunk | Done | Failed


class ChatterModel(SequenceModel):
    """Hands requests to the loop's thread, and what comes back to the worker; nothing after `cancel`."""

    def __init__(self, options: ChatterOptions) -> None:
        self._options = options
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tasks: dict[JobId, asyncio.Task[None]] = {}
        self._running: set[JobId] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chatter", daemon=True)
        self._thread.start()
        self._engine = AsyncToyEngine(self._loop)

    def capacity(self) -> int:
        """Return how many requests may join."""
        return self._options.max_running - len(self._running)

    def admit(self, job: JobId, request: Request) -> None:
        """Let a request join: its text, or JSON with `prompt` and `max_tokens`."""
        prompt, most = _read(request, self._options.max_tokens)
        self._running.add(job)
        self._loop.call_soon_threadsafe(self._begin, job, prompt, most)

    def _begin(self, job: JobId, prompt: str, most: int) -> None:
        self._tasks[job] = self._loop.create_task(self._pump(job, prompt, most))

    async def _pump(self, job: JobId, prompt: str, most: int) -> None:
        """Pass on one request's tokens as they come."""
        try:
            async for token in self._engine.generate(prompt, most, str(job)):
                self._events.put(Chunk(job=job, data=f"{token} ".encode(), head=_TEXT))
            self._events.put(Done(job))
        except Exception as error:  # noqa: BLE001  # whatever an engine raises is this request's error
            self._events.put(Failed(job, RequestError(424, f"{type(error).__name__}: {error}")))
        finally:
            self._tasks.pop(job, None)

    def step(self) -> Sequence[Event]:
        """Return what has come since the last step; wait a little when there is nothing."""
        events: list[Event] = []
        try:
            events.append(self._events.get(timeout=_STEP_SECONDS))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        found = [event for event in events if event.job in self._running]
        self._running -= {event.job for event in found if not isinstance(event, Chunk)}
        return found

    def cancel(self, job: JobId) -> None:
        """Drop a request."""
        self._running.discard(job)
        self._loop.call_soon_threadsafe(self._stop, job)

    def _stop(self, job: JobId) -> None:
        if (task := self._tasks.pop(job, None)) is not None:
            task.cancel()

    def close(self) -> None:
        """End the engine, its loop and the loop's thread."""
        if self._thread.is_alive():
            self._engine.shutdown()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _read(request: Request, most: int) -> tuple[str, int]:
    text = bytes(request.data).decode("utf-8", "replace")
    if not request.properties.get("content-type", "").startswith("application/json"):
        return text, most
    try:
        body = json.loads(text)
        return str(body["prompt"]), max(1, min(most, int(body.get("max_tokens", most))))
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(400, f"expected JSON with a prompt: {error}") from None


class ChatterEngine(Engine):
    """Loads nothing: the model is a toy."""

    def load(self, spec: ModelSpec) -> ChatterModel:
        """Return the model."""
        return ChatterModel(spec.options)

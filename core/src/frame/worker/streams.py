"""Credits and cancellations of a worker's jobs, and streams advanced in turn as their credits allow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from frame.contract.requests import Buffer, Part, RequestError, Response, ResponseStream
from frame.wire.messages import INITIAL_CREDITS, AnswerHead, ChunkHead, EndHead, Kind
from frame.wire.records import ENDED, Act, outcome_of
from frame.worker.answers import as_bytes, as_request_error, error_head, response_head
from frame.worker.channel import Channel
from frame.worker.lockstep import ALONE, Lockstep

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 1.0
WaitFor = Callable[[Callable[[], bool], float], None]


class JobTable:
    """Which jobs are here, how many chunks each may send, and which nobody waits for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credits: dict[int, int] = {}
        self._cancelled: set[int] = set()

    def add(self, jobs: Iterable[int]) -> None:
        """Start to track jobs."""
        with self._lock:
            for job in jobs:
                self._credits[job] = INITIAL_CREDITS

    def forget(self, jobs: Iterable[int]) -> None:
        """Drop all that is known of jobs."""
        with self._lock:
            for job in jobs:
                self._credits.pop(job, None)
                self._cancelled.discard(job)

    def grant(self, job: int, count: int) -> None:
        """Add credits."""
        with self._lock:
            if job in self._credits:
                self._credits[job] += count

    def cancel(self, jobs: Iterable[int]) -> None:
        """Mark jobs as cancelled; those that are not here are ignored."""
        with self._lock:
            self._cancelled.update(job for job in jobs if job in self._credits)

    def is_cancelled(self, job: int) -> bool:
        """Tell whether nobody waits for the job."""
        return job in self._cancelled

    def take_credit(self, job: int) -> bool:
        """Use one credit if there is one."""
        with self._lock:
            if self._credits.get(job, 0) < 1:
                return False
            self._credits[job] -= 1
            return True

    def has_work(self, jobs: Iterable[int]) -> bool:
        """Tell whether one of the jobs has a credit or was cancelled."""
        return any(self._credits.get(job, 0) > 0 or job in self._cancelled for job in jobs)


@dataclass(slots=True)
class _Active:
    job: int
    stream: ResponseStream
    has_begun: bool = False


def run_streams(
    channel: Channel,
    jobs: JobTable,
    streams: Iterable[tuple[int, ResponseStream]],
    wait_for: WaitFor,
    lockstep: Lockstep = ALONE,
) -> None:
    """Advance streams in turn until all have ended; blocks the calling slot.

    Args:
        wait_for: waits until a message makes a condition true, at most some seconds (`Inbox.wait_for`).
    """
    active = {job: _Active(job, stream) for job, stream in streams}
    while active:
        has_progressed = False
        for item in list(active.values()):
            if jobs.is_cancelled(item.job):
                _close(item, lockstep)
                del active[item.job]
            elif jobs.take_credit(item.job):
                has_progressed = True
                if not _advance(channel, item, lockstep):
                    _close(item, lockstep)
                    del active[item.job]
        if active and not has_progressed:
            waiting = tuple(active)
            wait_for(partial(jobs.has_work, waiting), _WAIT_SECONDS)
    lockstep.settle()


def _advance(channel: Channel, item: _Active, lockstep: Lockstep) -> bool:
    """Send the stream's next chunk; return whether more may come.

    Raises:
        Exception: what the stream raised, where other ranks follow; but a `RequestError` breaks it alone.
    """
    try:
        with lockstep.act(Act.ADVANCE, item.job):
            chunk = next(item.stream.chunks, None)
    except Exception as error:  # fault line: around one request of a plugin
        _log.exception("stream_failed job=%d", item.job)
        if lockstep.spans_ranks and not isinstance(error, RequestError):
            raise
        lockstep.settle(outcome_of([item.job]))
        _break(channel, item, as_request_error(error))
        return False
    if chunk is None:
        lockstep.settle(ENDED)
        _end(channel, item)
        return False
    try:
        _send_chunk(channel, item, as_bytes(chunk))
    except (TypeError, ValueError) as error:
        _log.exception("stream_failed job=%d", item.job)
        _break(channel, item, as_request_error(error))
        return False
    return True


def _send_chunk(channel: Channel, item: _Active, chunk: Buffer) -> None:
    if item.has_begun:
        channel.send(Kind.CHUNK, ChunkHead(item.job), [chunk])
    else:
        begin_stream(channel, item.job, item.stream.head, Part("data", chunk))
        item.has_begun = True


def begin_stream(channel: Channel, job: int, head: Response, first: Part) -> None:
    """Send status, headers and the first chunk of a stream."""
    answer, bodies = response_head(
        job, Response(status=head.status, message=head.message, properties=head.properties, parts=(first,))
    )
    channel.send(Kind.STREAM, answer, bodies)


def _end(channel: Channel, item: _Active) -> None:
    if not item.has_begun:
        _send_chunk(channel, item, b"")
    channel.send(Kind.END, EndHead(item.job))


def _break(channel: Channel, item: _Active, error: RequestError) -> None:
    if item.has_begun:
        channel.send(Kind.END, EndHead(item.job, error.message or type(error).__name__))
    else:
        head, parts = error_head(item.job, error)
        begin = AnswerHead(id=item.job, status=head.status, message=head.message, type_name=head.type_name)
        begin.properties, begin.parts = head.properties, head.parts
        channel.send(Kind.STREAM, begin, parts)
        channel.send(Kind.END, EndHead(item.job))


def _close(item: _Active, lockstep: Lockstep) -> None:
    with lockstep.act(Act.CLOSE, item.job):
        close_stream(item.job, item.stream)


def close_stream(job: int, stream: ResponseStream) -> None:
    """Close a stream; an exception is logged."""
    try:
        stream.close()
    except Exception:  # noqa: BLE001  # fault line: around a plugin's code
        _log.exception("stream_close_failed job=%d", job)

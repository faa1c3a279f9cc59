"""Drive a `SequenceModel`: jobs join and leave between steps, a slow reader stops only its own stream."""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import dataclass, field

from frame.contract.models import Chunk, Done, Failed, SequenceModel
from frame.contract.requests import Buffer, Part, Request, RequestError, Response
from frame.wire.messages import AnswersHead, BatchEnd, ChunkHead, EndHead, Kind
from frame.wire.records import Act, outcome_of
from frame.worker.answers import as_bytes, as_request_error
from frame.worker.channel import Channel, PartReader
from frame.worker.link import LinkError
from frame.worker.lockstep import ALONE, DivergenceError, Lockstep
from frame.worker.seeds import SEED_BITS
from frame.worker.slots import Work, WorkQueue, add_answer, build_request, cancelled_test
from frame.worker.streams import JobTable, begin_stream

_log = logging.getLogger(__name__)
_CREDIT_POLL = 0.01
"""Seconds between two looks at the credits of slow readers when nothing else is left to do."""
MAX_HELD_CHUNKS = 4096
"""Chunks held for a reader that does not take them.

A job with more is cancelled, since its model cannot pause.
"""
_DIGEST_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Running:
    """A job inside the model, or one whose last chunks wait for credits."""

    batch: int
    held: deque[Buffer] = field(default_factory=deque)
    is_admitted: bool = False
    has_begun: bool = False
    is_done: bool = False
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the model works on it: it was admitted and has not ended."""
        return self.is_admitted and not self.is_done


class SequenceDriver:
    """Admit, step and cancel in the thread that calls `run`.

    Invariants: a job is admitted once; its chunks keep their order; its end is sent after its last chunk;
    other ranks are told of each job either that it is admitted or that it is dropped.
    """

    def __init__(
        self,
        model: SequenceModel,
        channel: Channel,
        jobs: JobTable,
        work: WorkQueue,
        *,
        ends_on_error: bool,
        lockstep: Lockstep = ALONE,
    ) -> None:
        self._model = model
        self._channel = channel
        self._jobs = jobs
        self._work = work
        self._ends_on_error = ends_on_error
        self._lockstep = lockstep
        self._random = random.Random()  # noqa: S311  # of its own: a model may seed the global one
        self._running: dict[int, _Running] = {}
        self._waiting: deque[tuple[int, Request | RequestError]] = deque()
        self._is_draining = False

    def run(self) -> None:
        """Run until told to drain and all jobs have ended."""
        while not (self._is_draining and not self._running):
            self._take_work()
            self._drop_cancelled()
            self._admit_waiting()
            if any(item.is_running for item in self._running.values()):
                self._step()
            self._flush()

    def _take_work(self) -> None:
        """Admit what has come; block while there is nothing to step."""
        while True:
            try:
                work = self._work.get(self._patience())
            except TimeoutError:
                return
            if work is None:
                self._is_draining = True
                return
            self._take_jobs(work)

    def _take_jobs(self, work: Work) -> None:
        reader = PartReader(work.buffers)
        for job in work.head.jobs:
            request = build_request(
                job,
                reader.take(job.parts),
                seed=self._random.getrandbits(SEED_BITS),
                splits_forms=True,
                is_cancelled=cancelled_test(self._jobs, job.id, self._lockstep),
            )
            self._running[job.id] = _Running(work.head.batch)
            self._waiting.append((job.id, request))

    def _patience(self) -> float | None:
        """Seconds to wait for work: for ever when idle, not at all while there is something to step."""
        if not self._running and not self._is_draining:
            return None
        only_readers_left = all(item.is_done for item in self._running.values())
        return _CREDIT_POLL if only_readers_left and self._running else 0.0

    def _admit_waiting(self) -> None:
        """Let jobs join in the order in which they came, as far as the model has room."""
        while self._waiting:
            job, request = self._waiting[0]
            if job in self._running and self._model.capacity() < 1:
                return
            self._waiting.popleft()
            if job in self._running:
                self._admit(job, request)

    def _admit(self, job: int, request: Request | RequestError) -> None:
        if isinstance(request, RequestError):
            self._lockstep.tell(Act.DROP, job)
            self._finish(job, request)
            return
        try:
            with self._lockstep.act(Act.ADMIT, job, seed=request.seed):
                self._model.admit(job, request)
        except RequestError as error:
            self._lockstep.settle(outcome_of([job]))
            self._finish(job, error)
        except Exception as error:  # fault line: around a plugin's code
            if self._ends_on_error:
                raise
            self._finish(job, as_request_error(error))
        else:
            self._running[job].is_admitted = True

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._running if self._jobs.is_cancelled(job)]:
            item = self._running[job]
            if not item.is_admitted:
                self._lockstep.tell(Act.DROP, job)
            elif item.is_running:
                self._cancel(job)
            if item.has_begun:
                self._channel.send(Kind.END, EndHead(job, "cancelled"))
            else:
                self._channel.send(Kind.ANSWERS, AnswersHead(batch=item.batch, jobs=[], end=BatchEnd()))
            self._forget(job)

    def _step(self) -> None:
        try:
            digest = digest_of(self._model) if self._lockstep.spans_ranks else 0
            with self._lockstep.act(Act.STEP, digest=digest):
                events = self._model.step()
        except Exception as error:  # fault line: around a plugin's code
            _log.exception("step_failed jobs=%d", len(self._running))
            if self._ends_on_error:
                raise
            for job in [job for job, item in self._running.items() if item.is_running]:
                self._cancel(job)
                self._finish(job, as_request_error(error))
            return
        if self._lockstep.spans_ranks and not all(isinstance(event, Chunk) for event in events):
            self._verify()
        for event in events:
            if event.job in self._running:
                self._take_event_safely(event)

    def _verify(self) -> None:
        """Let no job end by a step that other ranks did otherwise."""
        with self._lockstep.act(Act.VERIFY, digest=digest_of(self._model)):
            pass
        self._lockstep.settle()

    def _take_event_safely(self, event: Chunk | Done | Failed) -> None:
        """Take an event; one that cannot be sent fails its job alone."""
        try:
            self._take_event(event)
        except (LinkError, DivergenceError):
            raise
        except Exception as error:  # noqa: BLE001  # fault line: around one request of a plugin
            _log.exception("event_invalid job=%d", event.job)
            self._cancel(event.job)
            self._finish(event.job, as_request_error(error))

    def _take_event(self, event: Chunk | Done | Failed) -> None:
        if isinstance(event, Chunk):
            self._take_chunk(event)
        elif isinstance(event, Failed):
            self._finish(event.job, event.error)
        elif event.response is not None:
            self._finish(event.job, event.response)
        else:
            self._running[event.job].is_done = True

    def _take_chunk(self, chunk: Chunk) -> None:
        item = self._running[chunk.job]
        if not item.has_begun:
            begin_stream(self._channel, chunk.job, chunk.head or Response(), Part("data", chunk.data))
            item.has_begun = True
            self._jobs.take_credit(chunk.job)
        elif len(item.held) < MAX_HELD_CHUNKS:
            item.held.append(as_bytes(chunk.data))
        else:
            self._cancel(chunk.job)
            item.is_done, item.error = True, "the reader is too slow"

    def _finish(self, job: int, result: Response | RequestError) -> None:
        """End a job with a whole answer, or, when its stream began, with that stream's end."""
        item = self._running[job]
        item.is_done = True
        if item.has_begun:
            item.error = result.message if isinstance(result, RequestError) else ""
            return
        answers = AnswersHead(batch=item.batch, jobs=[], end=BatchEnd())
        bodies: list[Buffer] = []
        add_answer(answers.jobs, bodies, job, result)
        self._channel.send(Kind.ANSWERS, answers, bodies)
        self._forget(job)

    def _flush(self) -> None:
        """Send held chunks as credits allow, and the ends of jobs whose chunks are all sent."""
        for job, item in list(self._running.items()):
            while item.held and self._jobs.take_credit(job):
                self._channel.send(Kind.CHUNK, ChunkHead(job), [item.held.popleft()])
            if item.is_done and not item.held:
                if not item.has_begun:
                    begin_stream(self._channel, job, Response(), Part("data", b""))
                self._channel.send(Kind.END, EndHead(job, item.error))
                self._forget(job)

    def _cancel(self, job: int) -> None:
        """Tell the model; a model that cannot even drop a job must not take the others with it."""
        try:
            with self._lockstep.act(Act.CANCEL, job):
                self._model.cancel(job)
        except Exception:  # fault line: around a plugin's code
            _log.exception("cancel_failed job=%d", job)
            if self._ends_on_error:
                raise

    def _forget(self, job: int) -> None:
        del self._running[job]
        self._jobs.forget([job])


def digest_of(model: SequenceModel) -> int:
    """Return the model's digest of its last step as a record carries it, 0 to 2**64 - 1."""
    return int(model.digest()) & _DIGEST_MASK

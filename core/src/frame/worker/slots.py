"""A slot: one thread that takes batches from the worker's queue and runs them on the model."""

from __future__ import annotations

import importlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from frame.contract.models import Model, TensorModel
from frame.contract.properties import Properties
from frame.contract.requests import Buffer, Part, Request, RequestError, Response, ResponseStream
from frame.wire.messages import AnswerHead, AnswersHead, BatchEnd, JobHead, Kind, RunHead
from frame.wire.records import Act, outcome_of
from frame.worker.answers import answer_head, as_request_error
from frame.worker.channel import Channel, PartReader
from frame.worker.inbox import Inbox
from frame.worker.lockstep import ALONE, ENDS_ON_ERROR, Lockstep
from frame.worker.seeds import SEED_BITS, requested_seed, seed_for
from frame.worker.stats import BATCH_STATS, BatchStats
from frame.worker.streams import JobTable, run_streams

_log = logging.getLogger(__name__)
DEFAULT_CODEC = "frame.worker.codecs.djl"
_ANSWERS_PER_MESSAGE = 200
"""Each answer may carry one descriptor, and a message takes at most `MAX_FDS`."""

Result = Response | ResponseStream | RequestError


@dataclass(slots=True)
class Work:
    """A RUN message as it came: its head and its buffers (body, then mapped parts)."""

    head: RunHead
    buffers: list[memoryview]


WorkQueue = Inbox[Work]


def never() -> bool:
    """Return False: ranks that saw a cancellation at different moments would part ways."""
    return False


def build_request(
    job: JobHead,
    parts: tuple[Part, ...],
    *,
    seed: int,
    splits_forms: bool,
    is_cancelled: Callable[[], bool] = never,
) -> Request | RequestError:
    """Return the request of a job, or what is wrong with it.

    Args:
        seed: for a client that asked for none.
    """
    codec = job.codec or DEFAULT_CODEC
    properties = Properties(job.properties)
    try:
        requested = requested_seed(properties)
        if splits_forms:
            parts = importlib.import_module(codec).decode(parts, properties, None)
    except RequestError as error:
        return error
    except Exception as error:  # noqa: BLE001  # fault line: around one request
        _log.exception("decode_failed job=%d", job.id)
        return as_request_error(error)
    return Request(
        id=job.request_id,
        properties=properties,
        parts=parts,
        codec=codec,
        is_cancelled=is_cancelled,
        seed=seed if requested is None else requested,
    )


def cancelled_test(jobs: JobTable, job: int, lockstep: Lockstep) -> Callable[[], bool]:
    """Return what a request's `is_cancelled` calls."""
    return never if lockstep.spans_ranks else lambda: jobs.is_cancelled(job)


class Slot:
    """Runs one batch at a time, in the thread that calls `run`.

    Invariants: every job of a batch is answered once, or was cancelled; the batch's end is reported last.
    """

    def __init__(
        self,
        model: Model,
        channel: Channel,
        jobs: JobTable,
        work: WorkQueue,
        *,
        ends_on_error: bool,
        can_leave: bool = False,
        lockstep: Lockstep = ALONE,
    ) -> None:
        self._model = model
        self._channel = channel
        self._jobs = jobs
        self._work = work
        self._ends_on_error = ends_on_error
        self._can_leave = can_leave
        self._lockstep = lockstep
        self._random = random.Random()  # noqa: S311  # of its own: a handler may seed the global one

    def run(self) -> None:
        """Run batches until the inbox gives None."""
        while (work := self._work.get(can_leave=self._can_leave)) is not None:
            self.run_batch(work)

    def run_batch(self, work: Work) -> None:
        """Run one batch to its end, streams included."""
        stats = BatchStats()
        BATCH_STATS.set(stats)
        ENDS_ON_ERROR.set(self._ends_on_error)
        ids = [job.id for job in work.head.jobs]
        waiting, results = self._predict(work, stats)
        streams = [
            (job, item)
            for job, item in zip(waiting, results, strict=True)
            if isinstance(item, ResponseStream)
        ]
        whole = [
            (job, item)
            for job, item in zip(waiting, results, strict=True)
            if not isinstance(item, ResponseStream)
        ]
        end = BatchEnd(
            decode=stats.decode, compute=stats.compute, encode=stats.encode, calls=max(1, stats.calls)
        )
        self._send_answers(work.head.batch, whole, None if streams else end)
        if streams:
            run_streams(self._channel, self._jobs, streams, self._work.wait_for, self._lockstep)
            self._channel.send(Kind.ANSWERS, AnswersHead(batch=work.head.batch, jobs=[], end=end))
        self._jobs.forget(ids)

    def _predict(self, work: Work, stats: BatchStats) -> tuple[list[int], list[Result]]:
        """Return the jobs that somebody waits for, and their results in the same order."""
        reader = PartReader(work.buffers)
        started = time.monotonic()
        splits_forms = not isinstance(self._model, TensorModel)
        seed = self._random.getrandbits(SEED_BITS)
        built = [
            (
                job.id,
                build_request(
                    job,
                    reader.take(job.parts),
                    seed=seed_for(seed, position),
                    splits_forms=splits_forms,
                    is_cancelled=cancelled_test(self._jobs, job.id, self._lockstep),
                ),
            )
            for position, job in enumerate(work.head.jobs)
        ]
        waiting = [(job, item) for job, item in built if not self._jobs.is_cancelled(job)]
        requests = [(job, item) for job, item in waiting if isinstance(item, Request)]
        decoded = time.monotonic()
        answers = iter(self._call_all(work.head, requests, seed))
        if not stats.calls:
            stats.decode, stats.compute = decoded - started, time.monotonic() - decoded
        results = [next(answers) if isinstance(item, Request) else item for _, item in waiting]
        return [job for job, _ in waiting], results

    def _call_all(
        self, head: RunHead, requests: Sequence[tuple[int, Request]], seed: int
    ) -> Sequence[Result]:
        """Call the model on all ranks, if there is anything to call it with."""
        if len(requests) < len(head.jobs):
            kept = {job for job, _ in requests}
            for job in [job.id for job in head.jobs if job.id not in kept]:
                self._lockstep.tell(Act.DROP, job)
        if not requests:
            return ()
        with self._lockstep.act(Act.RUN, head.batch, seed=seed):
            answers = self._call([request for _, request in requests])
        if self._lockstep.spans_ranks:  # before anybody is answered
            pairs = zip(requests, answers, strict=True)
            failed = [job for (job, _), item in pairs if isinstance(item, RequestError)]
            self._lockstep.settle(outcome_of(failed))
        return answers

    def _call(self, requests: Sequence[Request]) -> Sequence[Result]:
        """Call the model; whatever it raises becomes the answer of all its requests."""
        try:
            return _counted(self._model.predict(requests), len(requests))
        except Exception as error:  # fault line: around a plugin's code
            _log.exception("predict_failed requests=%d", len(requests))
            if self._ends_on_error:
                raise
            return [as_request_error(error)] * len(requests)

    def _send_answers(
        self, batch: int, whole: list[tuple[int, Response | RequestError]], end: BatchEnd | None
    ) -> None:
        """Send whole answers, `end` with the last message."""
        for start in range(0, max(1, len(whole)), _ANSWERS_PER_MESSAGE):
            heads: list[AnswerHead] = []
            bodies: list[Buffer] = []
            for job, item in whole[start : start + _ANSWERS_PER_MESSAGE]:
                add_answer(heads, bodies, job, item)
            is_last = start + _ANSWERS_PER_MESSAGE >= len(whole)
            self._channel.send(
                Kind.ANSWERS, AnswersHead(batch=batch, jobs=heads, end=end if is_last else None), bodies
            )


def _counted(results: Sequence[Result], count: int) -> Sequence[Result]:
    """Return the results when there are as many as requests.

    Raises:
        RequestError: there are not; whose they are is not known.
    """
    if len(results) != count:
        message = f"the model gave {len(results)} answers to {count} requests"
        raise RequestError(424, message, type_name="HandlerError")
    return results


def add_answer(
    heads: list[AnswerHead], bodies: list[Buffer], job: int, item: Response | RequestError
) -> None:
    """Append a job's answer to the heads and bodies of a message, numbering its descriptor."""
    head, parts = answer_head(job, item)
    before = sum(1 for other in heads for part in other.parts if part[2] >= 0) if parts else 0
    head.parts = [(key, size, before if index >= 0 else -1) for key, size, index in head.parts]
    heads.append(head)
    bodies += parts

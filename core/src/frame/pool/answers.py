"""What comes back from a worker, given to the jobs that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frame.pool.batches import Batch
from frame.pool.group import WorkerGroup
from frame.pool.heads import decode_head
from frame.pool.jobs import Answer, Body, Job, JobStream
from frame.wire.frames import Frame, WireError
from frame.wire.messages import AnswerHead, AnswersHead, BatchEnd, ChunkHead, EndHead, PartHead

if TYPE_CHECKING:
    from frame.pool.model import ModelPool


def take_answers(pool: ModelPool, group: WorkerGroup, frame: Frame, mapped: list[memoryview]) -> None:
    """Give each answer, chunk or end of a message to its job.

    Raises:
        WireError: the message is not one of a worker's, or names lengths that it does not have.
    """
    head = decode_head(frame)
    if isinstance(head, AnswersHead):
        _take_whole(pool, group, head, _Bodies(frame.body, mapped))
    elif isinstance(head, AnswerHead):
        _take_stream(pool, group, head, _Bodies(frame.body, mapped))
    elif isinstance(head, ChunkHead):
        job = group.find_job(head.job)
        if job is not None and job.stream is not None:
            group.progressed(job)
            job.stream.push(mapped[0] if mapped else frame.body)
    elif isinstance(head, EndHead):
        _take_end(pool, group, head)


class _Bodies:
    """Hands out the parts of a message in the order of their heads."""

    def __init__(self, body: memoryview, mapped: list[memoryview]) -> None:
        self._body = body
        self._mapped = mapped
        self._offset = 0

    def take(self, parts: list[PartHead]) -> Body | None:
        """Return the body of one answer; None when it has no part."""
        if not parts:
            return None
        _, size, descriptor = parts[0]
        if descriptor >= 0:
            if descriptor >= len(self._mapped):
                raise WireError("a part names a descriptor that did not come")
            return self._mapped[descriptor]
        start, self._offset = self._offset, self._offset + size
        if size < 0 or self._offset > len(self._body):
            raise WireError("parts are longer than their message")
        return bytes(self._body[start : self._offset])


def _take_whole(pool: ModelPool, group: WorkerGroup, head: AnswersHead, bodies: _Bodies) -> None:
    batch = group.batches.get(head.batch)
    for item in head.jobs:
        body = bodies.take(item.parts)
        job = batch.jobs.pop(item.id, None) if batch is not None else None
        if job is not None:
            job.inference = head.end.compute if head.end is not None else 0.0
            job.started = batch.started  # type: ignore[union-attr]  # it has the job
            pool.open_jobs.finish(job, _answer(item, body))
    if head.end is not None and batch is not None:
        _end_batch(pool, group, batch, head.end)


def _answer(item: AnswerHead, body: Body | None) -> Answer:
    return Answer(
        status=item.status,
        message=item.message,
        properties=item.properties,
        body=body if body is not None or item.type_name else b"",
        type_name=item.type_name,
    )


def _end_batch(pool: ModelPool, group: WorkerGroup, batch: Batch, end: BatchEnd) -> None:
    """Free the slot; jobs that the worker passed over had been cancelled."""
    metrics = pool.metrics
    metrics.inference.observe(end.compute)
    metrics.decode.observe(end.decode)
    metrics.encode.observe(end.encode)
    metrics.splits += end.calls > 1
    for job in batch.jobs.values():
        pool.open_jobs.finish(job, _unanswered("the worker passed over this request"))
    pool.batch_done(group, batch, end.compute)


def _unanswered(message: str) -> Answer:
    return Answer(status=503, message=message, type_name="WorkerDiedError")


def _take_stream(pool: ModelPool, group: WorkerGroup, head: AnswerHead, bodies: _Bodies) -> None:
    first = bodies.take(head.parts)
    job = group.find_job(head.id)
    if job is None or job not in pool.open_jobs:
        return
    group.progressed(job)
    job.started = group.batches[job.batch].started
    answer = _answer(head, None)
    answer.stream = _stream_of(pool, group, job)
    if first:
        answer.stream.push(first)
    pool.open_jobs.begin_stream(job, answer)


def _stream_of(pool: ModelPool, group: WorkerGroup, job: Job) -> JobStream:
    return JobStream(grant=lambda: group.grant(job), cancel=lambda: pool.cancel(job))


def _take_end(pool: ModelPool, group: WorkerGroup, head: EndHead) -> None:
    job = group.find_job(head.job)
    if job is None:
        return
    batch = group.batches[job.batch]
    del batch.jobs[job.id]
    if job.stream is None:
        pool.open_jobs.finish(job, _unanswered("the worker ended a stream that had not begun"))
    else:
        job.stream.end(head.error)
    pool.open_jobs.end_stream(job, is_broken=bool(head.error))
    if group.capacity:
        pool.batch_done(group, batch)

"""Streams of a batch: in turn, as credits allow, closed once, and cut where they break."""

from __future__ import annotations

import threading

import pytest
from frame.api import Part, RequestError, Response, ResponseStream
from frame.wire.messages import INITIAL_CREDITS, Kind
from frame.wire.parts import MEMFD_BYTES
from frame.worker.streams import JobTable

from tests.unit.worker_rig import DEADLINE, Scripted, answers, ends, rig, stream_of, wait_until


class Streaming(Scripted):
    """Streams for each request what `chunks` makes of its body; counts chunks taken and closes."""

    def __init__(self, chunks, **head):
        super().__init__(lambda batch: [self._stream(request) for request in batch])
        self._chunks = chunks
        self._head = head
        self.taken: dict[str, int] = {}
        self.closed: list[str] = []

    def _stream(self, request):
        def counted():
            for chunk in self._chunks(bytes(request.data)):
                self.taken[request.id] = self.taken.get(request.id, 0) + 1
                yield chunk

        return ResponseStream(
            head=Response(**self._head), chunks=counted(), close=lambda: self.closed.append(request.id)
        )


def words(body: bytes):
    return iter(body.split())


def failing_after(count):
    """Return chunks that break after some."""

    def chunks(body):
        yield from [b"x"] * count
        message = "lost the thread"
        raise RuntimeError(message)

    return chunks


def test_a_stream_has_its_head_with_the_first_chunk_and_then_its_chunks_and_its_end():
    model = Streaming(words, status=206, properties={"content-type": "text/plain"})
    with rig(model) as worker:
        batch = worker.run({1: b"one two three"})
        messages = worker.batch_end(batch)
    assert stream_of(messages, 1) == [
        (Kind.STREAM, b"one"),
        (Kind.CHUNK, b"two"),
        (Kind.CHUNK, b"three"),
        (Kind.END, ""),
    ]
    begin = next(message.head for message in messages if message.kind is Kind.STREAM)
    assert (begin["status"], begin["properties"]) == (206, {"content-type": "text/plain"})
    assert model.closed == ["request-1"]


def test_streams_of_a_batch_advance_in_turn():
    with rig(Streaming(words)) as worker:
        messages = worker.batch_end(worker.run({1: b"a b c", 2: b"d e"}))
    sent = [bytes(m.buffers[0]) for m in messages if m.kind in {Kind.STREAM, Kind.CHUNK}]
    assert sent == [b"a", b"d", b"b", b"e", b"c"]


def test_whole_answers_of_a_batch_do_not_wait_for_its_streams():
    model = Streaming(lambda body: (word for word in body.split()))
    stream = model._answer
    model._answer = lambda batch: [
        stream([request])[0] if request.data != b"whole" else Response(parts=(Part("data", b"done"),))
        for request in batch
    ]
    with rig(model) as worker:
        batch = worker.run({1: b"w " * 50, 2: b"whole"})
        first = worker.next()
        assert answers([first]) == [(2, 200, "OK", b"done")]
        assert not ends(first, batch)
        worker.grant(1, 50)
        messages = worker.batch_end(batch)
    assert answers(messages) == []
    assert len(stream_of(messages, 1)) == 51


def test_no_more_chunks_than_credits_are_taken_from_the_model():
    model = Streaming(words)
    with rig(model) as worker:
        batch = worker.run({1: b"a " * 100, 2: b"b " * 60})
        worker.grant(2, 60)
        # The other stream of the batch ends: meanwhile this one had as many turns as that.
        messages = worker.until(lambda m: m.kind is Kind.END and m.head["job"] == 2)
        assert model.taken["request-1"] == INITIAL_CREDITS
        assert len(stream_of(messages, 1)) == INITIAL_CREDITS
        worker.grant(1, 3)
        more = [worker.next() for _ in range(3)]
        assert len(stream_of(more, 1)) == 3
        worker.grant(1, 100)
        rest = worker.batch_end(batch)
    assert len(stream_of(messages + more + rest, 1)) == 101
    assert model.taken["request-1"] == 100


def test_a_cancelled_stream_is_closed_and_asked_for_nothing_more():
    model = Streaming(words)
    with rig(model) as worker:
        batch = worker.run({1: b"a " * 100, 2: b"b " * 40})
        worker.until(lambda m: model.taken == {"request-1": INITIAL_CREDITS, "request-2": INITIAL_CREDITS})
        worker.cancel(1)
        wait_until(lambda: model.closed == ["request-1"])
        worker.grant(1, 100)
        worker.grant(2, 100)
        messages = worker.batch_end(batch)
    assert model.taken["request-1"] == INITIAL_CREDITS
    assert model.closed == ["request-1", "request-2"]
    assert not [item for item in stream_of(messages, 1) if item[0] is Kind.END]


def test_a_stream_that_breaks_after_its_first_chunk_ends_with_the_error():
    model = Streaming(failing_after(2))
    with rig(model) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
        assert stream_of(messages, 1) == [
            (Kind.STREAM, b"x"),
            (Kind.CHUNK, b"x"),
            (Kind.END, "RuntimeError: lost the thread"),
        ]
        assert model.closed == ["request-1"]


@pytest.mark.parametrize(
    ("error", "status", "type_name", "message"),
    [
        (RuntimeError("no weights"), 424, "HandlerError", "RuntimeError: no weights"),
        (MemoryError("no room"), 507, "OutOfMemoryError", "no room"),
        (RequestError(400, "too long"), 400, "BadRequestError", "too long"),
    ],
)
def test_a_stream_that_breaks_before_its_first_chunk_is_an_error_answer(error, status, type_name, message):
    def chunks(body):
        raise error
        yield b""

    with rig(Streaming(chunks)) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
    begin = messages[1].head if messages[0].kind is Kind.ANSWERS else messages[0].head
    assert (begin["status"], begin["type_name"], begin["message"]) == (status, type_name, message)
    assert stream_of(messages, 1) == [(Kind.STREAM, b""), (Kind.END, "")]


def test_one_stream_that_breaks_does_not_end_its_neighbours():
    def chunks(body):
        return failing_after(1)(body) if body == b"bad" else words(body)

    with rig(Streaming(chunks)) as worker:
        messages = worker.batch_end(worker.run({1: b"bad", 2: b"a b c"}))
    assert stream_of(messages, 1)[-1] == (Kind.END, "RuntimeError: lost the thread")
    assert [data for _, data in stream_of(messages, 2)] == [b"a", b"b", b"c", ""]


@pytest.mark.parametrize("position", [0, 1])
def test_a_chunk_that_is_no_bytes_breaks_its_stream_alone(position):
    with rig(Streaming(lambda body: iter([b"x"] * position + ["text"]))) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
        last = stream_of(messages, 1)[-1]
        begin = next(message.head for message in messages if message.kind is Kind.STREAM)
        assert last[1] if position else begin["status"] == 424
        assert worker.errors == []


def test_an_empty_stream_is_an_answer_without_a_body():
    with rig(Streaming(lambda body: iter(()), status=204)) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
    assert stream_of(messages, 1) == [(Kind.STREAM, b""), (Kind.END, "")]


def test_large_chunks_travel_as_descriptors():
    large = [bytes([number]) * (MEMFD_BYTES + number) for number in range(3)]
    with rig(Streaming(lambda body: iter(large))) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
    assert [data for _, data in stream_of(messages, 1)] == [*large, ""]


def test_a_close_that_fails_stops_nothing():
    model = Streaming(words)
    model.closed = None  # its append fails
    with rig(model) as worker:
        batch = worker.run({1: b"a", 2: b"b"})
        messages = worker.batch_end(batch)
        assert [stream_of(messages, job)[-1] for job in (1, 2)] == [(Kind.END, "")] * 2


# --- the table of jobs ----------------------------------------------------------------------------


def test_a_job_that_is_not_here_gets_no_credit_and_cannot_be_cancelled():
    jobs = JobTable()
    jobs.grant(1, 5)
    jobs.cancel([1])
    assert not jobs.take_credit(1)
    assert not jobs.is_cancelled(1)
    assert not jobs.has_work([1])


def test_credits_run_out_and_are_granted():
    jobs = JobTable()
    jobs.add([1, 2])
    assert [jobs.take_credit(1) for _ in range(INITIAL_CREDITS + 1)] == [True] * INITIAL_CREDITS + [False]
    assert not jobs.has_work([1])
    assert jobs.has_work([1, 2])
    jobs.grant(1, 2)
    assert jobs.has_work([1])
    assert [jobs.take_credit(1) for _ in range(3)] == [True, True, False]


def test_a_cancelled_job_is_forgotten_whole():
    jobs = JobTable()
    jobs.add([1])
    jobs.cancel([1])
    assert jobs.is_cancelled(1)
    assert jobs.has_work([1])
    jobs.forget([1])
    assert not jobs.is_cancelled(1)
    jobs.add([1])
    assert not jobs.is_cancelled(1)


def test_credits_granted_while_others_are_taken_are_not_lost():
    jobs = JobTable()
    jobs.add([1])
    taken = []

    def take():
        while len(taken) < INITIAL_CREDITS + 2000:
            if jobs.take_credit(1):
                taken.append(1)

    taker = threading.Thread(target=take)
    taker.start()
    for _ in range(2000):
        jobs.grant(1, 1)
    taker.join(DEADLINE)
    assert not taker.is_alive()
    assert not jobs.take_credit(1)

"""Continuous batching: jobs join and leave between steps, and none of them disturbs another."""

from __future__ import annotations

import threading

import pytest
from frame.api import Chunk, Done, Failed, Part, RequestError, Response, SequenceModel
from frame.wire.messages import INITIAL_CREDITS, Kind
from frame.worker.sequences import MAX_HELD_CHUNKS

from tests.unit.worker_rig import DEADLINE, answers, ends, rig, stream_of, wait_until

TEXT = Response(properties={"content-type": "text/plain"})


class Spelling(SequenceModel):
    """Sends one word of each running request at a step; takes a step when told to, or always.

    Words that act: `whole` ends with a whole answer, `fail` fails the job, `raise` raises, `wrong` sends no
    bytes, `flood` sends more chunks than are held. A body `refuse` or `crash` is not admitted.
    """

    def __init__(self, places: int = 2, *, is_stepped: bool = False) -> None:
        self.places = places
        self.running: dict[int, list[bytes]] = {}
        self.steps: list[list[int]] = []
        self.admitted: list[int] = []
        self.cancelled: list[int] = []
        self.gate = threading.Semaphore(0 if is_stepped else 1 << 30)

    def capacity(self):
        return self.places - len(self.running)

    def admit(self, job, request):
        assert self.capacity() > 0
        if request.data == b"refuse":
            raise RequestError(413, "prompt too long")
        if request.data == b"crash":
            message = "no such tokenizer"
            raise KeyError(message)
        self.admitted.append(job)
        self.running[job] = bytes(request.data).split()

    def step(self):
        assert self.gate.acquire(timeout=DEADLINE)
        assert self.running
        self.steps.append(list(self.running))
        return [event for job in list(self.running) for event in self._advance(job)]

    def _advance(self, job):
        word = self.running[job].pop(0) if self.running[job] else None
        if word == b"raise":
            message = "kernel launch failed"
            raise RuntimeError(message)
        if word in {None, b"whole", b"fail"}:
            del self.running[job]
        if word == b"whole":
            return [Done(job, Response(parts=(Part("data", b"all at once"),)))]
        if word == b"fail":
            return [Failed(job, RequestError(400, "stop word"))]
        if word is None:
            return [Done(job)]
        if word == b"flood":
            return [Chunk(job=job, data=b"x", head=TEXT)] * (MAX_HELD_CHUNKS + 2)
        return [Chunk(job=job, data="text" if word == b"wrong" else word, head=TEXT)]

    def cancel(self, job):
        self.cancelled.append(job)
        self.running.pop(job, None)


def has_ended(job):
    """Return a test for the message that ends a job's stream."""
    return lambda message: message.kind is Kind.END and message.head["job"] == job


def words_of(messages, job):
    return [data for kind, data in stream_of(messages, job) if kind is not Kind.END]


def test_a_job_is_streamed_word_by_word_with_its_head_first():
    with rig(Spelling()) as worker:
        worker.run({1: b"one two three"})
        messages = worker.until(has_ended(1))
    assert stream_of(messages, 1) == [
        (Kind.STREAM, b"one"),
        (Kind.CHUNK, b"two"),
        (Kind.CHUNK, b"three"),
        (Kind.END, ""),
    ]
    assert messages[0].head["properties"] == TEXT.properties


def test_jobs_join_and_leave_between_steps():
    model = Spelling(is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a b c d"})
        model.gate.release()
        messages = worker.until(lambda m: m.kind is Kind.STREAM)
        worker.run({2: b"x"})
        model.gate.release()  # the step that may have begun without job 2
        messages += worker.until(lambda m: m.kind is Kind.CHUNK)
        model.gate.release(8)
        messages += worker.until(has_ended(1))
    assert words_of(messages, 1) == [b"a", b"b", b"c", b"d"]
    assert words_of(messages, 2) == [b"x"]
    assert model.steps[0] == [1]
    assert [1, 2] in model.steps
    assert model.steps[-1] == [1]


def test_a_job_waits_for_a_place_when_the_model_has_none():
    model = Spelling(places=1)
    with rig(model) as worker:
        worker.run({1: b"a b"})
        worker.run({2: b"c"})
        worker.run({3: b"d"})
        worker.until(has_ended(3))
    assert model.admitted == [1, 2, 3]
    assert {len(step) for step in model.steps} == {1}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [(b"refuse", 413, "prompt too long"), (b"crash", 424, "KeyError: 'no such tokenizer'")],
)
def test_a_job_that_is_not_admitted_fails_alone(body, status, text):
    model = Spelling(is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a"})
        batch = worker.run({2: body})
        model.gate.release(8)
        messages = worker.until(has_ended(1))
        if not any(ends(message, batch) for message in messages):
            messages += worker.batch_end(batch)
    assert answers(messages) == [(2, status, text, b"")]
    assert words_of(messages, 1) == [b"a"]


def test_a_malformed_form_is_refused_without_the_model():
    model = Spelling()
    with rig(model) as worker:
        kind = {"content-type": "multipart/form-data; boundary=x"}
        messages = worker.batch_end(worker.run({1: b"no form"}, **kind))
    assert [status for _, status, _, _ in answers(messages)] == [400]
    assert model.admitted == []


def test_a_job_may_end_with_a_whole_answer_or_an_error_of_its_own():
    with rig(Spelling()) as worker:
        first, second = worker.run({1: b"whole"}), worker.run({2: b"fail"})
        messages = worker.batch_end(first)
        if not any(ends(message, second) for message in messages):
            messages += worker.batch_end(second)
    assert sorted(answers(messages)) == [(1, 200, "OK", b"all at once"), (2, 400, "stop word", b"")]


def test_a_job_that_fails_after_its_stream_began_ends_it_with_the_error():
    with rig(Spelling()) as worker:
        worker.run({1: b"a fail"})
        messages = worker.until(has_ended(1))
    assert stream_of(messages, 1) == [(Kind.STREAM, b"a"), (Kind.END, "stop word")]


def test_a_job_that_ends_without_a_chunk_is_an_empty_stream():
    with rig(Spelling()) as worker:
        worker.run({1: b""})
        assert stream_of(worker.until(has_ended(1)), 1) == [(Kind.STREAM, b""), (Kind.END, "")]


def test_a_step_that_raises_fails_the_jobs_inside_and_the_next_ones_run():
    model = Spelling(places=2, is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a b c"})
        model.gate.release()
        messages = worker.until(lambda m: m.kind is Kind.STREAM)
        batch = worker.run({2: b"raise"})
        wait_until(lambda: worker.jobs.has_work([2]))
        model.gate.release(4)
        messages += worker.until(has_ended(1))
        if not any(ends(message, batch) for message in messages):
            messages += worker.batch_end(batch)
        assert stream_of(messages, 1)[-1][1].startswith("RuntimeError: kernel launch failed")
        assert [(job, status) for job, status, _, _ in answers(messages)] == [(2, 424)]
        assert set(model.cancelled) == {1, 2}
        model.gate.release(4)
        worker.run({3: b"again"})
        assert words_of(worker.until(has_ended(3)), 3) == [b"again"]


def test_a_job_that_still_waits_for_a_place_is_not_failed_by_a_step():
    model = Spelling(places=1, is_stepped=True)
    with rig(model) as worker:
        first = worker.run({1: b"raise"})
        worker.run({2: b"fine"})
        wait_until(lambda: model.admitted == [1])
        wait_until(lambda: worker.jobs.has_work([2]))
        model.gate.release(8)
        messages = worker.until(has_ended(2))
    assert answers(messages)[0][:2] == (1, 424)
    assert any(ends(message, first) for message in messages)
    assert words_of(messages, 2) == [b"fine"]


def test_in_a_group_of_several_ranks_a_step_that_raises_ends_the_driver():
    with rig(Spelling(), ends_on_error=True) as worker:
        worker.run({1: b"raise"})
        worker.wait_drained()
    assert [str(error) for error in worker.errors] == ["kernel launch failed"]


def test_a_slow_reader_stops_only_its_own_stream():
    model = Spelling()
    with rig(model) as worker:
        worker.run({1: b"s " * 40})
        worker.run({2: b"f " * 100})
        worker.grant(2, 100)
        messages = worker.until(has_ended(2))
        assert words_of(messages, 2) == [b"f"] * 100
        assert len(words_of(messages, 1)) == INITIAL_CREDITS
        wait_until(lambda: not model.running)
        worker.grant(1, 5)
        more = [worker.next() for _ in range(5)]
        assert words_of(more, 1) == [b"s"] * 5
        worker.grant(1, 40)
        rest = worker.until(has_ended(1))
    assert len(words_of(messages + more + rest, 1)) == 40
    assert stream_of(rest, 1)[-1] == (Kind.END, "")


def test_a_reader_that_falls_too_far_behind_is_cut_off():
    model = Spelling()
    with rig(model) as worker:
        worker.run({1: b"flood " * 2})
        worker.grant(1, 2 * MAX_HELD_CHUNKS)
        messages = worker.until(has_ended(1))
    assert stream_of(messages, 1)[-1] == (Kind.END, "the reader is too slow")
    assert len(words_of(messages, 1)) == MAX_HELD_CHUNKS + 1
    assert model.cancelled


def test_a_chunk_that_is_no_bytes_fails_its_job_alone():
    with rig(Spelling()) as worker:
        worker.run({1: b"a wrong b"})
        worker.run({2: b"x y z"})
        messages = worker.until(has_ended(1))
        assert stream_of(messages, 1)[-1][1]
        if not any(has_ended(2)(message) for message in messages):
            messages += worker.until(has_ended(2))
    assert words_of(messages, 2) == [b"x", b"y", b"z"]
    assert worker.errors == []


def test_a_cancelled_job_leaves_the_model_and_its_place_is_reported_free():
    model = Spelling(is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a " * 1000})
        model.gate.release()
        worker.until(lambda m: m.kind is Kind.STREAM)
        worker.cancel(1)
        wait_until(lambda: worker.jobs.is_cancelled(1) or model.cancelled)
        model.gate.release(2)
        worker.until(has_ended(1))
        assert model.cancelled == [1]
        assert model.running == {}
        worker.run({2: b"next"})
        model.gate.release(4)
        assert words_of(worker.until(has_ended(2)), 2) == [b"next"]


def test_a_job_that_is_cancelled_before_its_first_chunk_ends_its_batch():
    model = Spelling(places=1, is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a"})
        wait_until(lambda: model.admitted == [1])
        batch = worker.run({2: b"never"})
        worker.cancel(2)
        wait_until(lambda: worker.jobs.is_cancelled(2))
        model.gate.release(4)
        messages = worker.batch_end(batch)
        assert answers(messages) == []
        if not any(has_ended(1)(message) for message in messages):
            worker.until(has_ended(1))
    assert model.admitted == [1]


def test_a_cancelled_job_whose_last_chunks_wait_for_a_reader_is_forgotten():
    model = Spelling()
    with rig(model) as worker:
        worker.run({1: b"s " * 40})
        wait_until(lambda: model.admitted == [1] and not model.running)
        worker.cancel(1)
        worker.until(has_ended(1))
        assert model.cancelled == []


def test_a_model_that_cannot_cancel_does_not_stop_the_others():
    model = Spelling(is_stepped=True)

    def cancel(job):
        model.running.pop(job, None)
        message = "cancel is broken"
        raise RuntimeError(message)

    model.cancel = cancel
    with rig(model) as worker:
        worker.run({1: b"a " * 50})
        worker.run({2: b"b c"})
        wait_until(lambda: worker.jobs.has_work([1]))
        worker.cancel(1)
        wait_until(lambda: worker.jobs.is_cancelled(1))
        model.gate.release(10)
        messages = worker.until(has_ended(2))
    assert words_of(messages, 2) == [b"b", b"c"]
    assert worker.errors == []


def test_a_drain_lets_running_jobs_end_first():
    model = Spelling(is_stepped=True)
    with rig(model) as worker:
        worker.run({1: b"a b c"})
        wait_until(lambda: model.admitted == [1])
        worker.drain()
        model.gate.release(8)
        worker.wait_drained()
        assert words_of(worker.until(has_ended(1)), 1) == [b"a", b"b", b"c"]
    assert model.running == {}


def test_an_idle_driver_ends_when_drained():
    with rig(Spelling()) as worker:
        worker.drain()
        worker.wait_drained()

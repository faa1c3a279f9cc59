"""Ranks in lockstep: every rank makes the same calls in the same order, or the group ends."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from frame.api import Model, RequestError, Response, ResponseStream
from frame.wire.frames import WireError
from frame.wire.messages import Kind
from frame.wire.records import RECORD, Act, Record, pack
from frame.worker.link import LinkError
from frame.worker.lockstep import DivergenceError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.lockstep_rig import Calls, Streaming, Words, assert_in_step, group
from tests.unit.test_worker_sequences import has_ended
from tests.unit.worker_rig import answers, rig, stream_of, wait_until

SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BODIES = st.sampled_from([b"whole", b"error", b"stream 0", b"stream 3", b"stream 40", b"broken 2"])
SENTENCES = st.sampled_from([b"", b"a", b"a b c", b"w " * 300, b"refuse"])
SHORT = st.sampled_from([b"", b"a b c", b"w " * 30, b"refuse"])
JOBS = st.integers(0, 20)


def actions(bodies):
    """Make lists of what a router may do: `run` with bodies, others late or not; the rest with a job."""
    runs = st.tuples(st.just("run"), st.lists(bodies, min_size=1, max_size=3), st.booleans())
    others = st.tuples(st.sampled_from(["cancel", "grant", "progress"]), JOBS)
    return st.lists(st.one_of(runs, others), min_size=1, max_size=20)


def play(made, script, jobs=0, first=1):
    """Do what a script says with jobs from `first`, let streams come to their ends; return the last job.

    Jobs 1 to `jobs` are there already.
    """
    for action, what, *late in script:
        if action == "run":
            made.run({jobs + number: body for number, body in enumerate(what, 1)}, others_late=late[0])
            jobs += len(what)
        elif action == "progress" and jobs:
            wait_until(lambda: made.leader.progress > 0)
        elif action == "cancel" and jobs >= first:
            made.worker.cancel(first + what % (jobs - first + 1))
        elif jobs:
            made.worker.grant(1 + what % jobs, 30)
    for job in range(1, jobs + 1):
        made.worker.grant(job, 400)
    return jobs


@contextmanager
def reading(made):
    """Read what rank 0 answers, so that it never waits for a reader."""
    has_ended = threading.Event()

    def read():
        while not has_ended.is_set():
            made.worker.router.read(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


@SOME
@given(actions(BODIES), st.integers(2, 4))
def test_batches_and_streams_make_the_same_calls_on_all_ranks(script, size):
    with group(*(Streaming() for _ in range(size))) as made:
        with reading(made):
            play(made, script)
            made.end()
        assert_in_step(made)
        assert not made.worker.errors


@SOME
@given(actions(SENTENCES), st.integers(2, 4))
def test_sequences_make_the_same_calls_on_all_ranks(script, size):
    with group(*(Words() for _ in range(size))) as made:
        with reading(made):
            play(made, script)
            made.end()
        assert_in_step(made)
        assert not made.worker.errors
        assert {tuple(model.running) for model in made.models} == {()}


@SOME
@given(st.dictionaries(st.integers(0, 30), actions(SHORT), max_size=3), st.integers(2, 3))
def test_what_comes_between_steps_takes_effect_at_the_same_step_on_all_ranks(scripts, size):
    with group(*(Words() for _ in range(size))) as made, reading(made):
        sent = [1]

        def before(step):
            sent[0] = play(made, scripts.get(step, ()), sent[0], first=2)

        made.models[0].before = before
        made.run({1: b"w " * 40})
        wait_until(lambda: made.models[0].steps > 30)
        made.end()
        assert_in_step(made)
        assert not made.worker.errors


def test_a_job_that_is_cancelled_at_a_step_is_cancelled_there_on_all_ranks():
    with group(Words(), Words(), Words()) as made, reading(made):
        made.models[0].before = lambda step: made.worker.cancel(1) if step == 5 else None
        made.run({1: b"w " * 60})
        made.end()
        assert_in_step(made)
        assert made.calls()[2][1:] == [*[("step", (1,))] * 6, ("cancel", 1)]


def test_a_stream_is_answered_by_rank_0_as_if_it_were_alone():
    with group(Streaming(), Streaming()) as made:
        made.run({1: b"stream 2", 2: b"whole", 3: b"broken 1"})
        messages = made.worker.batch_end(1)
        made.end()
        assert_in_step(made)
    assert [(job, status) for job, status, _, _ in answers(messages)] == [(2, 200)]
    assert stream_of(messages, 1) == [(Kind.STREAM, b"0 "), (Kind.CHUNK, b"1 "), (Kind.END, "")]
    assert stream_of(messages, 3) == [(Kind.STREAM, b"0 "), (Kind.END, "too long")]
    assert ("close", "request-3") in made.calls()[1]


def test_a_cancelled_stream_ends_after_the_same_chunk_on_all_ranks():
    with group(Streaming(), Streaming(), Streaming()) as made:
        made.run({1: b"stream 1000"})
        made.worker.until(lambda message: message.kind is Kind.CHUNK)
        made.worker.cancel(1)
        made.worker.batch_end(1)
        made.end()
        assert_in_step(made)
        assert made.calls()[2][-1] == ("close", "request-1")


def test_form_and_seed_errors_are_dropped_on_all_ranks_alike():
    with group(Streaming(), Streaming()) as made:
        made.run({1: b"whole"}, **{"x-frame-seed": "x"})
        made.run({2: b"no form"}, **{"content-type": "multipart/form-data; boundary=x"})
        messages = made.worker.batch_end(1) + made.worker.batch_end(2)
        made.end()
        assert_in_step(made)
        assert made.calls() == [[], []]
    assert [(job, status) for job, status, _, _ in answers(messages)] == [(1, 400), (2, 400)]


def test_a_seed_is_the_clients_or_one_of_the_jobs_own():
    with group(Streaming(), Streaming()) as made:
        made.run({1: b"whole", 2: b"whole"}, **{"X-Frame-Seed": "7"})
        made.run({3: b"whole", 4: b"whole"})
        made.end()
        assert_in_step(made)
        seeds = [seed for _, batch in made.calls()[1] for _, _, seed in batch]
    assert seeds[:2] == [7, 7]
    assert len(set(seeds)) == 3


def test_a_model_of_one_rank_gets_seeds_as_well():
    model = Streaming()
    with rig(model) as worker:
        worker.batch_end(worker.run({1: b"whole", 2: b"whole"}))
        worker.batch_end(worker.run({3: b"whole"}, **{"x-frame-seed": "9"}))
    seeds = [seed for _, batch in model.calls.made for _, _, seed in batch]
    assert len(set(seeds)) == 3
    assert seeds[2] == 9


def test_a_sequence_gets_a_seed_and_a_bad_one_is_refused():
    with group(Words(), Words()) as made:
        made.run({1: b"a"}, **{"x-frame-seed": "5"})
        made.run({2: b"b"}, **{"x-frame-seed": "-5"})
        made.run({3: b"c"})
        made.end()
        assert_in_step(made)
        admitted = [call[1:] for call in made.calls()[1] if call[0] == "admit"]
    assert admitted[0] == (1, b"a", 5)
    assert [job for job, _, _ in admitted] == [1, 3]


def test_a_payload_that_does_not_come_ends_the_rank():
    with group(Streaming(), Streaming(), stall_timeout=0.05) as made:
        made.run({1: b"whole"}, only_rank_0=True)
        made.ranks[0].join()
    assert isinstance(made.ranks[0].error, TimeoutError)
    assert str(made.ranks[0].error) == "the payload of batch 1 did not come within 0.05 s"


def test_a_rank_whose_step_chose_other_tokens_ends():
    with group(Words(), Words()) as made:
        made.models[1].chosen = 5
        made.run({1: b"a b c"})
        made.ranks[0].join()
    assert isinstance(made.ranks[0].error, DivergenceError)
    assert "other tokens than rank 0's: 0x" in str(made.ranks[0].error)
    assert ("step", (1,)) not in made.models[1].calls.made


@pytest.mark.parametrize(
    ("model", "body", "error"),
    [(Streaming, b"torn 1", RuntimeError), (Words, b"crash", KeyError), (Streaming, b"stream x", ValueError)],
)
def test_an_exception_ends_every_rank_that_it_comes_to(model, body, error):
    with group(model(), model()) as made:
        made.run({1: body})
        made.ranks[0].join()
        made.worker.wait_drained()
    assert [type(found) for found in (made.ranks[0].error, *made.worker.errors)] == [error, error]


def test_an_exception_of_one_rank_alone_ends_that_rank():
    class Unlucky(Words):
        def step(self):
            message = "device lost"
            raise RuntimeError(message)

    with group(Words(), Words(), Unlucky()) as made:
        made.run({1: b"a b c"})
        made.ranks[1].join()
        assert made.ranks[0].error is None
    assert str(made.ranks[1].error) == "device lost"


class Silent(Model):
    """A handler that answers on rank 0 only."""

    def __init__(self) -> None:
        self.calls = Calls()

    def predict(self, batch):
        self.calls.note("predict", len(batch))


def test_a_handler_may_answer_on_rank_0_only():
    with group(Streaming(), Silent()) as made:
        made.run({1: b"stream 3", 2: b"whole"})
        messages = made.worker.batch_end(1)
        made.end()
        assert made.ranks[0].error is None
        assert made.models[1].calls.made == [("predict", 2)]
    assert len(stream_of(messages, 1)) == 4


def test_streams_that_rank_0_does_not_have_are_closed_before_the_next_batch():
    class Eager(Silent):
        def predict(self, batch):
            self.calls.note("predict")
            return [
                ResponseStream(head=Response(), chunks=iter(()), close=lambda: self.calls.note("close"))
            ] * len(batch)

    with group(Streaming(), Eager()) as made:
        made.run({1: b"whole"})
        made.run({2: b"whole"})
        made.end()
        assert made.models[1].calls.made == [("predict",), ("close",), ("predict",), ("close",)]


def test_a_wrong_number_of_answers_ends_rank_0():
    class Short(Model):
        def predict(self, batch):
            return [Response()]

    with group(Short(), Silent()) as made:
        made.run({1: b"a", 2: b"b"})
        made.worker.wait_drained()
    assert [str(error) for error in made.worker.errors] == ["the model gave 1 answers to 2 requests"]
    assert isinstance(made.worker.errors[0], RequestError)


def test_records_for_sequences_end_a_rank_whose_model_is_none():
    with group(Words(), Streaming()) as made:
        made.run({1: b"whole"})
        made.ranks[0].join()
    assert "rank 0's model is a SequenceModel, this rank's Streaming" in str(made.ranks[0].error)


def test_progress_is_odd_while_a_call_runs_and_equal_when_all_wait():
    with group(Words(), Words()) as made:
        made.run({1: b"a b"})
        made.worker.until(has_ended(1))
        wait_until(lambda: made.ranks[0].follower.progress == made.leader.progress)
        assert made.leader.progress % 2 == 0
        with made.leader.act(Act.CANCEL, 1):
            assert made.leader.progress % 2 == 1
        wait_until(lambda: made.ranks[0].follower.progress == made.leader.progress)


# --- the link ---------------------------------------------------------------------------------------


def test_a_rank_whose_rank_0_is_gone_ends():
    with group(Streaming(), Streaming()) as made:
        made.link.close(0.0)
        made.ranks[0].join()
    assert isinstance(made.ranks[0].error, LinkError)
    assert "rank 0 is lost" in str(made.ranks[0].error)


def test_what_is_no_record_ends_a_rank():
    with group(Streaming(), Streaming()) as made:
        made.link.send(RECORD.pack(99, 0, 0, 0))
        made.ranks[0].join()
    assert isinstance(made.ranks[0].error, WireError)


def test_rank_0_cannot_send_to_a_rank_that_is_gone_and_names_it():
    with group(Streaming(), Streaming(), Streaming()) as made:
        made.ranks[1].close()
        with pytest.raises(LinkError, match="rank 2 takes nothing"):
            made.link.send(pack(Record(act=Act.STOP)))


def test_both_ends_notice_a_lost_peer_while_nobody_reads():
    with group(Streaming(), Streaming(), Streaming()) as made:
        made.ranks[1].close()
        assert made.link.wait_lost() == 2
        made.link.close(0.0)
        assert made.ranks[0].link.wait_lost() == 0
        made.ranks[0].link.close()
    assert made.ranks[0].link.wait_lost() == 0

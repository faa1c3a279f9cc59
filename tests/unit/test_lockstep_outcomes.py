"""What an act comes to is the same on all ranks, or the group ends; rank 0 waits for the others."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from frame.api import Done, Part
from frame.wire.messages import Kind
from frame.worker.lockstep import DivergenceError

from tests.unit.lockstep_rig import Streaming, Words, assert_in_step, group
from tests.unit.worker_rig import DEADLINE, answers, wait_until


class Apart(Streaming):
    """Does something else than the other ranks with a word."""

    def __init__(self, word: bytes, does: bytes) -> None:
        super().__init__()
        self.words = word, does

    def _answer(self, request):
        word, does = self.words
        return super()._answer(
            replace(request, parts=(Part("data", does),)) if request.data == word else request
        )


@pytest.mark.parametrize(
    ("word", "does"),
    [
        (b"whole", b"error"),
        (b"error", b"whole"),
        (b"stream 2", b"stream 1"),
        (b"stream 1", b"stream 2"),
        (b"stream 3", b"broken 1"),
        (b"broken 1", b"stream 3"),
    ],
)
def test_what_fails_or_ends_on_one_rank_alone_ends_rank_0_before_its_next_act(word, does):
    with group(Streaming(), Streaming(), Apart(word, does)) as made:
        made.run({1: word})
        wait_until(lambda: len(made.models[0].calls.made) > 0)
        made.run({2: b"whole"})
        made.worker.wait_drained()
        assert [type(error) for error in made.worker.errors] == [DivergenceError]
        assert "on rank 2 alone" in str(made.worker.errors[0])
        predicted = [call for call in made.models[0].calls.made if call[0] == "predict"]
        assert len(predicted) == 1


def test_what_fails_on_all_ranks_is_answered():
    with group(Streaming(), Streaming(), Streaming()) as made:
        made.run({1: b"error", 2: b"whole", 3: b"broken 0"})
        messages = made.worker.batch_end(1)
        made.end()
        assert_in_step(made)
    assert [(job, status) for job, status, _, _ in answers(messages)] == [(1, 400), (2, 200)]


def test_a_refused_sequence_that_one_rank_admits_ends_rank_0():
    class Lenient(Words):
        def admit(self, job, request):
            super().admit(job, replace(request, parts=(Part("data", b"a"),)))

    with group(Words(), Lenient()) as made:
        made.run({1: b"refuse"})
        made.worker.wait_drained()
    assert [type(error) for error in made.worker.errors] == [DivergenceError]


def test_no_job_ends_by_a_step_that_another_rank_did_otherwise():
    class Otherwise(Words):
        def step(self):
            events = super().step()
            if any(isinstance(event, Done) for event in events):
                self.chosen += 1
            return events

    with group(Words(), Otherwise()) as made:
        made.run({1: b"a b"})
        made.ranks[0].join()
        made.worker.wait_drained()
        assert isinstance(made.ranks[0].error, DivergenceError)
        messages = [message for _ in range(10) for message in made.worker.router.read(0.01) or []]
    kinds = [message.kind for message in messages]
    assert kinds.count(Kind.STREAM) + kinds.count(Kind.CHUNK) == 2
    assert Kind.END not in kinds


def test_rank_0_begins_nothing_while_another_rank_is_behind():
    may_go_on = threading.Event()

    class Behind(Streaming):
        def predict(self, batch):
            may_go_on.wait(DEADLINE)
            return super().predict(batch)

    with group(Streaming(), Behind()) as made:
        made.run({1: b"whole"})
        made.run({2: b"whole"})
        wait_until(lambda: made.leader.progress == 2)  # its own part of the first call is done
        assert len(made.models[0].calls.made) == 1
        may_go_on.set()
        made.worker.batch_end(1)
        made.worker.batch_end(2)
        made.end()
        assert_in_step(made)


def test_rank_0_does_not_wait_for_ever_for_a_rank_that_is_behind():
    may_go_on = threading.Event()

    class Behind(Streaming):
        def predict(self, batch):
            may_go_on.wait(DEADLINE)
            return super().predict(batch)

    with group(Streaming(), Behind(), link_timeout=0.05) as made:
        made.run({1: b"error"})
        made.worker.wait_drained()
        may_go_on.set()
    assert [str(error) for error in made.worker.errors] == [
        "rank 1 has not ended what rank 0 has, 0.05 s ago"
    ]


def test_nobody_is_answered_before_the_others_have_done_the_same():
    with group(Streaming(), Apart(b"whole", b"error")) as made:
        made.run({1: b"whole"})
        made.worker.wait_drained()
        assert [type(error) for error in made.worker.errors] == [DivergenceError]
        assert answers(made.worker.router.read(0.01) or []) == []


def test_ranks_that_were_told_to_stop_count_alike():
    with group(Words(), Words(), Words()) as made:
        made.run({1: b"a b"})
        made.end()
        assert {rank.follower.progress for rank in made.ranks} == {made.leader.progress}

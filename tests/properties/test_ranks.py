"""A rank that holds up its group is named in time; one that keeps up, or is as slow as all, never is."""

from __future__ import annotations

import pytest
from frame.policy.ranks import LONGEST_INTERVAL, StallPolicy
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule


class Group(RuleBasedStateMachine):
    """The policy beside ranks that answer, advance, or do not; a round is from one question to the next.

    Attributes:
        progress: of each rank, as it is.
        known: of each rank, as it last said.
        held_up: rounds in a row in which a rank showed nothing new while another was ahead or answered.
    """

    @initialize(ranks=st.integers(2, 4), timeout=st.sampled_from([0.2, 1.0, 3.0, 10.0, 60.0]))
    def begin(self, ranks: int, timeout: float) -> None:
        self.policy = StallPolicy(ranks, timeout)
        self.ranks = range(ranks)
        self.progress = [0] * ranks
        self.known = [0] * ranks
        self.judged = [-1] * ranks
        self.heard: set[int] = set(self.ranks)
        self.held_up = [0] * ranks
        self.named = ""

    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        """Some ranks begin or end an act."""
        if self.named:
            return
        for rank in data.draw(st.sets(st.sampled_from(self.ranks))):
            self.progress[rank] += 1

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Some ranks answer."""
        if not self.named:
            for rank in data.draw(st.sets(st.sampled_from(self.ranks))):
                self.say(rank)

    def say(self, rank: int) -> None:
        self.policy.heard(rank, self.progress[rank])
        self.known[rank] = self.progress[rank]
        self.heard.add(rank)

    @rule()
    def ask(self) -> None:
        """A round ends."""
        if not self.named:
            self.judge()

    def judge(self) -> None:
        furthest = max(self.known)
        for rank in self.ranks:
            is_late = self.known[rank] < furthest and self.known[rank] == self.judged[rank]
            if rank in self.heard and not is_late:
                self.held_up[rank] = 0
            elif self.heard:
                self.held_up[rank] += 1
        self.judged = list(self.known)
        self.heard = set()
        self.named = self.policy.judge()

    @rule(rounds=st.integers(1, 8))
    def work(self, rounds: int) -> None:
        """All ranks advance and answer for some rounds; one of them may be an act behind all the time."""
        for _ in range(rounds if not self.named else 0):
            for rank in self.ranks:
                self.progress[rank] = max(self.progress) + (1 if rank == 0 else 0)
                self.say(rank)
            self.judge()
            assert self.named == ""

    @rule(rounds=st.integers(1, 200))
    def compute(self, rounds: int) -> None:
        """A call takes long; all ranks are in it, and all or none of them can answer meanwhile."""
        if self.named:
            return
        self.progress = [max(self.progress)] * len(self.ranks)
        for number in range(rounds):
            if number % 3:
                for rank in self.ranks:
                    self.say(rank)
            self.judge()

    @rule(data=st.data())
    def stand_still(self, data: st.DataObject) -> None:
        """A rank stops, alive or not, and another one answers in each round: one of them is named in time."""
        if self.named:
            return
        stuck = data.draw(st.sampled_from(self.ranks))
        answers = data.draw(st.booleans())
        other = data.draw(st.sampled_from([rank for rank in self.ranks if rank != stuck]))
        self.progress[other] = max(self.progress) + 1
        self.say(other)
        rounds = 0
        while not self.named:
            rounds += 1
            assert rounds <= self.policy.most_behind + 2
            self.say(other)
            if answers:
                self.say(stuck)
            self.judge()

    @rule(data=st.data())
    def answer_in_turns(self, data: st.DataObject) -> None:
        """A rank is stuck and says so, while the one that is ahead answers each second question only."""
        if self.named:
            return
        stuck, ahead = data.draw(st.permutations(self.ranks))[:2]
        self.progress[ahead] = max(self.progress) + 1
        self.say(ahead)
        for number in range(self.policy.most_behind + 3):
            if number % 2 and not self.named:
                self.say(ahead)
            if not self.named:
                self.say(stuck)
                self.judge()
        assert self.named

    @invariant()
    def named_is_who_was_behind_at_each_of_the_last_questions(self) -> None:
        if not hasattr(self, "policy"):
            return
        late = [rank for rank in self.ranks if self.held_up[rank] >= self.policy.most_behind]
        assert bool(self.named) == bool(late)
        assert not late or any(self.named.startswith(f"rank {rank} ") for rank in late)


TestGroup = Group.TestCase


@pytest.mark.parametrize("timeout", [0.1, 0.7, 1.0, 8.0, 10.0, 11.5, 60.0])
def test_a_rank_that_is_behind_from_between_two_questions_on_is_named_within_the_time_out(timeout):
    policy = StallPolicy(2, timeout)
    assert policy.interval <= LONGEST_INTERVAL
    assert policy.most_behind >= 6
    slowest = (policy.most_behind + 2) * policy.interval
    assert timeout - policy.interval < slowest <= timeout + 1e-9


def test_ranks_that_are_all_silent_are_not_named():
    policy = StallPolicy(2, 1.0)
    assert [policy.judge() for _ in range(100)] == [""] * 100


def test_a_silent_rank_is_named_and_a_rank_that_is_behind_too():
    policy = StallPolicy(3, 1.0)
    for progress in range(20):
        policy.heard(0, progress)
        policy.heard(2, progress)
        if why := policy.judge():
            break
    assert why == "rank 1 is silent while another rank answers"
    policy = StallPolicy(3, 1.0)
    for progress in range(3, 20):
        for rank in range(3):
            policy.heard(rank, 3 if rank == 2 else progress)
        if why := policy.judge():
            break
    assert why.startswith("rank 2 stands at 3 while another rank is at ")

"""Groups follow the table; every death has an answer with a time; delays grow only where nothing works."""

from __future__ import annotations

import itertools

import pytest
from frame.policy.lifecycle import (
    TRANSITIONS,
    FailUntil,
    GroupEvent,
    GroupState,
    RestartAt,
    RestartLimits,
    RestartPolicy,
    next_state,
)
from frame.policy.recovery import POISONOUS_DEATHS, Interrupted, why_not_again
from frame.testing import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule


class Restarts(RuleBasedStateMachine):
    """The policy beside the history that its promises are made of."""

    @initialize(
        retry_threshold=st.integers(0, 4),
        window=st.sampled_from([5.0, 60.0]),
        first_delay=st.sampled_from([0.5, 2.0]),
        longest_delay=st.sampled_from([3.0, 30.0]),
    )
    def begin(self, **limits: float) -> None:
        self.limits = RestartLimits(**limits)
        self.policy = RestartPolicy(self.limits)
        self.clock = FakeClock(1000.0)
        self.group = 1
        self.forget()

    def forget(self) -> None:
        """What an answer does: nothing counts any more."""
        self.deaths: list[float] = []
        self.barren = 0
        self.failures = 0
        self.last_barren_delay = 0.0

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.9, 5.0, 60.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def answer(self) -> None:
        self.policy.answered(self.group)
        self.forget()

    @rule()
    def answer_by_an_older_group(self) -> None:
        """It forgives deaths, but says nothing of starts that failed since."""
        self.policy.answered(0)
        self.deaths.clear()

    @rule(has_answered=st.booleans())
    def die(self, has_answered: bool) -> None:
        now = self.clock.now
        self.deaths.append(now)
        within = [at for at in self.deaths if at > now - self.limits.window]
        decision = self.policy.died(now, self.group, has_answered=has_answered)
        self.group += 1
        barren = self.barren + (not has_answered)
        if max(len(within), barren) > self.limits.retry_threshold:
            self.check_failure(decision)
        elif has_answered:
            assert decision == RestartAt(now)
        else:
            self.barren += 1
            delay = decision.at - now
            expected = min(self.limits.longest_delay, self.limits.first_delay * 2 ** (self.barren - 1))
            assert isinstance(decision, RestartAt)
            assert delay == pytest.approx(expected)
            assert delay >= self.last_barren_delay - 1e-9
            self.last_barren_delay = delay

    @rule()
    def report_that_it_cannot_load(self) -> None:
        self.check_failure(self.policy.load_failed(self.clock.now, self.group))
        self.group += 1

    def check_failure(self, decision: RestartAt | FailUntil) -> None:
        failures = self.failures + 1
        assert isinstance(decision, FailUntil)
        assert decision.at - self.clock.now == pytest.approx(
            self.limits.cool_down * 2 ** min(failures - 1, 4)
        )
        self.forget()
        self.failures = failures


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def policy(**limits: float) -> RestartPolicy:
    return RestartPolicy(RestartLimits(**limits))


def test_a_group_that_has_answered_restarts_at_once_however_often():
    restarts = policy(retry_threshold=1)
    for now in range(10):
        assert restarts.died(float(now), now, has_answered=True) == RestartAt(float(now))
        restarts.answered(now + 1)


def test_delays_of_starts_that_answered_nothing_double_up_to_the_longest():
    restarts = policy(retry_threshold=99, first_delay=0.5, longest_delay=3.0)
    delays = [restarts.died(0.0, group, has_answered=False).at for group in range(40)]
    assert delays == [0.5, 1.0, 2.0] + 37 * [3.0]


def test_an_answer_in_between_starts_the_delays_anew():
    restarts = policy(first_delay=1.0)
    assert [restarts.died(0.0, group, has_answered=False).at for group in (1, 2)] == [1.0, 2.0]
    restarts.answered(3)
    assert restarts.died(0.0, 4, has_answered=False) == RestartAt(1.0)


def test_an_answer_of_an_older_group_leaves_the_delays():
    restarts = policy(first_delay=1.0)
    assert restarts.died(0.0, 2, has_answered=False) == RestartAt(1.0)
    restarts.answered(1)
    assert restarts.died(0.0, 3, has_answered=False) == RestartAt(2.0)
    restarts.load_failed(0.0, 4)
    restarts.answered(3)
    assert restarts.failed(0.0) == FailUntil(60.0)


def test_one_death_more_than_the_threshold_within_the_window_fails_the_model():
    restarts = policy(retry_threshold=2, window=10.0, cool_down=30.0)
    restarts.died(0.0, 1, has_answered=True)
    restarts.died(5.0, 1, has_answered=True)
    assert restarts.died(9.9, 1, has_answered=True) == FailUntil(39.9)


def test_deaths_that_are_as_old_as_the_window_do_not_count():
    restarts = policy(retry_threshold=2, window=10.0)
    restarts.died(0.0, 1, has_answered=True)
    restarts.died(5.0, 1, has_answered=True)
    assert restarts.died(10.0, 1, has_answered=True) == RestartAt(10.0)


def test_the_cool_down_doubles_to_sixteen_times_and_an_answer_resets_it():
    restarts = policy(cool_down=30.0)
    waits = [restarts.failed(100.0).at - 100.0 for _ in range(7)]
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 480.0, 480.0]
    restarts.answered(1)
    assert restarts.failed(100.0) == FailUntil(130.0)


def test_after_a_cool_down_the_threshold_counts_from_nothing():
    restarts = policy(retry_threshold=1, first_delay=1.0)
    restarts.failed(0.0)
    assert restarts.died(30.0, 1, has_answered=False) == RestartAt(31.0)


@given(st.lists(st.sampled_from(GroupEvent), max_size=8))
def test_an_ended_group_stays_ended_and_a_draining_one_never_takes_work_again(events):
    state = GroupState.STARTING
    seen = [state]
    for event in events:
        state = next_state(state, event)
        seen.append(state)
    for before, after in itertools.pairwise(seen):
        if before is GroupState.ENDED:
            assert after is GroupState.ENDED
        if before is GroupState.DRAINING:
            assert after in {GroupState.DRAINING, GroupState.ENDED}


@pytest.mark.parametrize("state", GroupState)
@pytest.mark.parametrize("event", GroupEvent)
def test_every_state_takes_every_event(state, event):
    expected = TRANSITIONS.get((state, event), state)
    assert next_state(state, event) is expected
    if event is GroupEvent.ENDED:
        assert expected is GroupState.ENDED
    if event is GroupEvent.DRAIN and state is not GroupState.ENDED:
        assert expected is GroupState.DRAINING


@given(st.integers(0, 4), st.booleans(), st.booleans())
def test_a_job_runs_again_unless_it_streamed_or_may_be_the_cause(deaths, has_streamed, retries):
    reason = why_not_again(
        Interrupted(deaths=deaths, has_streamed=has_streamed, retries=retries, cause="killed by SIGSEGV")
    )
    may_run = not has_streamed and (deaths == 0 or (retries and deaths < POISONOUS_DEATHS))
    assert (reason is None) == may_run
    if reason is not None:
        assert "killed by SIGSEGV" in reason

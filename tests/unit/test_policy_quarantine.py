"""Requests in quarantine: refused for as long as said, bounded in number, and nobody else is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from frame.policy.quarantine import Quarantine
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule


def test_a_request_is_refused_for_the_seconds_that_are_left():
    held = Quarantine(300.0)
    held.add(b"a", 10, now=100.0)
    assert held.seconds_left(b"a", now=113.0) == 287.0
    assert held.seconds_left(b"b", now=113.0) is None
    assert held.seconds_left(b"a", now=400.0) is None


def test_only_sizes_of_what_is_held_are_worth_a_digest():
    held = Quarantine(300.0)
    held.add(b"a", 10, now=100.0)
    held.add(b"b", 10, now=200.0)
    held.add(b"c", 7, now=200.0)
    assert (held.may_hold(10), held.may_hold(7), held.may_hold(8)) == (True, True, False)
    assert set(held.sizes) == {7, 10}
    assert held.seconds_left(b"a", now=400.0) is None
    assert held.may_hold(10)
    assert held.seconds_left(b"b", now=500.0) is None
    assert (len(held), held.may_hold(10), held.may_hold(7)) == (0, False, False)


def test_a_request_that_is_held_again_is_held_from_then_and_behind_the_others():
    held = Quarantine(300.0)
    held.add(b"a", 10, now=0.0)
    held.add(b"b", 11, now=1.0)
    held.add(b"a", 10, now=2.0)
    assert (held.seconds_left(b"a", now=302.0), len(held)) == (None, 0)
    held.add(b"a", 10, now=400.0)
    held.add(b"a", 10, now=500.0)
    assert held.seconds_left(b"a", now=701.0) == 99.0


def test_the_oldest_makes_room_for_the_newest():
    held = Quarantine(300.0, most=2)
    for number, digest in enumerate((b"a", b"b", b"c")):
        held.add(digest, 10 + number, now=1.0)
    assert [held.seconds_left(digest, now=1.0) for digest in (b"a", b"b", b"c")] == [None, 300.0, 300.0]
    assert not held.may_hold(10)


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 10), (300.0, 0)])
def test_nothing_is_held_without_a_time_or_without_content(seconds, size):
    held = Quarantine(seconds)
    held.add(b"a", size, now=0.0)
    assert (len(held), held.may_hold(size), held.seconds_left(b"a", now=0.0)) == (0, False, None)


@dataclass
class Kept:
    """What was put in quarantine, and when."""

    size: int
    at: float
    order: int


class QuarantineMachine(RuleBasedStateMachine):
    """Any sequence of poison and of time, beside a list of all that happened."""

    @initialize(seconds=st.sampled_from([5.0, 60.0]), most=st.integers(1, 4))
    def begin(self, seconds, most):
        self.held = Quarantine(seconds, most)
        self.seconds, self.most = seconds, most
        self.now, self.count = 0.0, 0
        self.kept: dict[bytes, Kept] = {}

    @rule(name=st.integers(0, 6))
    def poison(self, name):
        digest, size = bytes([name]), 1 + name // 2
        self.held.add(digest, size, self.now)
        self.count += 1
        self.kept.pop(digest, None)
        self.kept[digest] = Kept(size, self.now, self.count)

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 5.0, 61.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(name=st.integers(0, 6))
    def ask(self, name):
        digest = bytes([name])
        left = self.held.seconds_left(digest, self.now)
        live = self.live()
        newest = sorted(live, key=lambda item: live[item].order)[-self.most :]
        if left is not None:
            assert digest in live
            assert left == live[digest].at + self.seconds - self.now
            assert self.held.may_hold(live[digest].size)
        else:
            assert digest not in newest

    def live(self) -> dict[bytes, Kept]:
        return {digest: kept for digest, kept in self.kept.items() if kept.at + self.seconds > self.now}

    @invariant()
    def it_is_bounded_and_its_sizes_are_of_what_it_holds(self):
        assert len(self.held) <= self.most
        assert len(self.held.sizes) <= len(self.held)
        assert bool(self.held.sizes) == bool(len(self.held))

    def teardown(self):
        """Liveness: in the end everything is let go."""
        if hasattr(self, "held"):
            for digest in self.kept:
                assert self.held.seconds_left(digest, self.now + self.seconds) is None
            assert (len(self.held), list(self.held.sizes)) == (0, [])


TestQuarantine = QuarantineMachine.TestCase

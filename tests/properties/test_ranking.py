"""A ranking gives the lowest of what is here, whatever moved or left before, and keeps nothing else."""

from __future__ import annotations

from frame.policy.ranking import SLACK, Ranking
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

ITEMS = st.integers(0, 5)


class Ranks(RuleBasedStateMachine):
    """A ranking beside a plain dict."""

    @initialize()
    def begin(self) -> None:
        self.ranking: Ranking[int, float] = Ranking()
        self.ranks: dict[int, float] = {}

    @rule(item=ITEMS, rank=st.sampled_from([0.0, 0.5, 1.0, 2.5]))
    def put(self, item: int, rank: float) -> None:
        self.ranking.put(item, rank)
        self.ranks[item] = rank

    @rule(item=ITEMS)
    def drop(self, item: int) -> None:
        self.ranking.drop(item)
        self.ranks.pop(item, None)

    @rule(item=ITEMS, times=st.integers(SLACK, 3 * SLACK))
    def come_and_go(self, item: int, times: int) -> None:
        for rank in range(times):
            self.put(item, float(rank))
        self.drop(item)

    @invariant()
    def the_lowest_is_first(self) -> None:
        expected = min(((rank, item) for item, rank in self.ranks.items()), default=None)
        assert self.ranking.first() == expected

    @invariant()
    def it_keeps_little_of_what_has_left(self) -> None:
        assert len(self.ranking._heap) <= 2 * len(self.ranks) + SLACK

    def teardown(self) -> None:
        """Dropping the first again and again gives the order."""
        order = []
        while (first := self.ranking.first()) is not None:
            order.append(first)
            self.ranking.drop(first[1])
        assert order == sorted((rank, item) for item, rank in self.ranks.items())


TestRanks = Ranks.TestCase
TestRanks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

"""Items in the order of their ranks, where each item's rank may change and any item may leave."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
RankT = TypeVar("RankT")

SLACK = 64
"""Pairs that have no meaning any more and are not worth the cleaning."""


class Ranking(Generic[ItemT, RankT]):
    """Items with one rank each, the lowest first; ranks are ordered, items of equal ranks too.

    Every call costs O(log n), averaged over many. A heap whose pairs are left in it when their item leaves or
    moves, because to find one takes a scan; such a pair is passed over when it comes to the front.

    Invariants:
      * an item that is here has its rank's own pair in the heap;
      * the heap has at most two pairs an item, and `SLACK` more: those who come and go leave nothing behind.
    """

    __slots__ = ("_heap", "_ranks")

    def __init__(self) -> None:
        self._ranks: dict[ItemT, RankT] = {}
        self._heap: list[tuple[RankT, ItemT]] = []

    def put(self, item: ItemT, rank: RankT) -> None:
        """Give an item its rank, new or other."""
        ranks = self._ranks
        if ranks.get(item) == rank:
            return
        ranks[item] = rank
        heappush(self._heap, (rank, item))
        if len(self._heap) > 2 * len(ranks) + SLACK:
            self._tidy()

    def drop(self, item: ItemT) -> None:
        """Forget an item, which need not be here."""
        self._ranks.pop(item, None)
        if len(self._heap) > 2 * len(self._ranks) + SLACK:
            self._tidy()

    def first(self) -> tuple[RankT, ItemT] | None:
        """Return the lowest rank and its item, None when there is none."""
        heap, ranks = self._heap, self._ranks
        while heap:
            pair = heap[0]
            if ranks.get(pair[1]) is pair[0]:  # the same, not an equal one: that may be older
                return pair
            heappop(heap)
        return None

    def _tidy(self) -> None:
        self._heap = [(rank, item) for item, rank in self._ranks.items()]
        heapify(self._heap)

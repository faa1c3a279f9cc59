"""Delay and budget: a batch leaves when its oldest request has waited enough or when nothing more fits."""

from __future__ import annotations

import pytest
from frame.policy.batching import Batcher, BatchLimits, Taken
from frame.wire.hints import BatchHint


def batcher(*arrivals: float, batch_size: int = 3, max_delay: float = 1.0) -> Batcher[str]:
    made: Batcher[str] = Batcher(BatchLimits(batch_size=batch_size, max_delay=max_delay))
    for key, arrived in enumerate(arrivals):
        made.add(key, str(key), arrived)
    return made


def costing(*costs: int, max_cost: int, is_padded: bool = False, max_delay: float = 1.0) -> Batcher[str]:
    limits = BatchLimits(batch_size=100, max_delay=max_delay, max_cost=max_cost, is_padded=is_padded)
    made: Batcher[str] = Batcher(limits)
    for key, cost in enumerate(costs):
        made.add(key, str(key), 0.0, hint=BatchHint(b"", cost))
    return made


def keys(taken: Taken[str] | None) -> list[int]:
    return [] if taken is None else [key for key, _ in taken.jobs]


# --- delay --------------------------------------------------------------------------------------


def test_a_batch_waits_for_company_until_its_oldest_job_has_waited_long_enough():
    queue = batcher(1.0, 1.5)
    assert queue.next_due(1.5) == 2.0
    assert queue.take(1.99) is None
    assert (queue.next_due(2.0), keys(queue.take(2.0))) == (2.0, [0, 1])


def test_the_delay_counts_from_the_oldest_arrival_not_from_the_most_urgent_job():
    queue = batcher()
    queue.add(1, "patient", 0.0, priority=9)
    queue.add(2, "urgent", 0.9, priority=0)
    taken = queue.take(1.0)
    assert (keys(taken), taken.arrived) == ([2, 1], 0.0)


def test_the_delay_of_a_job_put_back_counts_from_its_first_arrival():
    queue = batcher(5.0)
    queue.put_back(9, "returned", 4.2)
    assert queue.next_due(5.0) == 5.2
    assert keys(queue.take(5.2)) == [9, 0]


def test_removing_the_oldest_job_gives_the_next_one_its_own_wait():
    queue = batcher(1.0, 3.0)
    assert queue.next_due(3.0) == 3.0
    queue.remove(0)
    assert queue.next_due(3.0) == 4.0
    assert queue.take(3.5) is None


def test_a_removed_job_neither_fills_a_batch_nor_leaves_with_one():
    queue = batcher(1.0, 2.0, 3.0)
    assert queue.remove(1) == "1"
    assert queue.has_full() is False
    assert queue.take(1.5) is None
    assert keys(queue.take(3.0)) == [0, 2]


def test_what_a_full_batch_leaves_behind_waits_its_own_time():
    queue = batcher(1.0, 1.0, 1.0, 1.2)
    assert keys(queue.take(1.2)) == [0, 1, 2]
    assert queue.next_due(1.2) == 2.2


@pytest.mark.parametrize(
    ("limits", "is_closed", "why"),
    [
        (BatchLimits(batch_size=2, max_delay=1.0), True, "full"),
        (BatchLimits(batch_size=3, max_delay=1.0), True, "closing"),
        (BatchLimits(batch_size=3, max_delay=0.0), True, "closing"),
        (BatchLimits(batch_size=3, max_delay=0.0), False, "no delay"),
        (BatchLimits(batch_size=3, max_delay=1.0), False, None),
    ],
)
def test_no_delay_is_spent_when_nothing_is_to_be_waited_for(limits, is_closed, why):
    queue = batcher(0.0, 0.0, batch_size=9)
    queue.set_limits(limits)
    if is_closed:
        queue.close()
    taken = queue.take(0.5)
    assert (taken and taken.why) == why


def test_other_limits_hold_for_the_jobs_that_wait():
    queue = batcher(0.0, 0.0, batch_size=9, max_delay=8.0)
    assert queue.next_due(1.0) == 8.0
    queue.set_limits(BatchLimits(batch_size=9, max_delay=5.0))
    assert queue.next_due(1.0) == 5.0
    queue.set_limits(BatchLimits(batch_size=2, max_delay=5.0))
    assert queue.next_due(1.0) == 1.0
    queue.set_limits(BatchLimits(batch_size=3, max_delay=5.0))
    assert (queue.next_due(1.0), queue.has_full()) == (5.0, False)


# --- budget -------------------------------------------------------------------------------------


def test_jobs_are_taken_while_the_batch_keeps_its_budget():
    taken = costing(40, 50, 20, 5, max_cost=100).take(0.0)
    assert (keys(taken), taken.cost, taken.why) == ([0, 1], 90, "full")


def test_a_small_job_does_not_overtake_a_large_one_that_does_not_fit():
    queue = costing(60, 60, 10, max_cost=100)
    assert [keys(queue.take(0.0)), keys(queue.take(1.0))] == [[0], [1, 2]]


def test_a_job_that_is_larger_than_the_budget_runs_alone():
    queue = costing(500, 1, max_cost=100)
    taken = queue.take(0.0)
    assert (keys(taken), taken.cost) == ([0], 500)


def test_a_batch_that_has_room_left_in_its_budget_waits():
    queue = costing(40, 50, max_cost=100)
    assert (queue.has_full(), queue.next_due(0.0)) == (False, 1.0)
    queue.add(9, "last", 0.0, hint=BatchHint(b"", 10))
    assert (queue.has_full(), keys(queue.take(0.0))) == (True, [0, 1, 9])


def test_padding_counts_in_the_budget():
    taken = costing(10, 40, 30, 5, max_cost=100, is_padded=True).take(0.0)
    assert (keys(taken), taken.cost, taken.why) == ([0, 1], 80, "full")


def test_a_padded_batch_to_which_not_even_the_smallest_job_can_come_does_not_wait():
    assert costing(60, max_cost=100, is_padded=True).has_full()
    assert not costing(50, max_cost=100, is_padded=True).has_full()


def test_the_largest_job_makes_room_when_it_leaves():
    queue = costing(10, 60, max_cost=100, is_padded=True)
    assert queue.has_full()
    queue.remove(1)
    assert not queue.has_full()

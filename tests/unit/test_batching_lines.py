"""Requests that cannot be stacked share no batch, do not wait for each other, and leave nothing behind."""

from __future__ import annotations

import pytest
from frame.policy.batching import Batcher, BatchLimits, Taken
from frame.policy.ranking import SLACK
from frame.wire.hints import BatchHint

SQUARE, WIDE = BatchHint(b"square"), BatchHint(b"wide")


def batcher(batch_size: int = 2, max_delay: float = 1.0) -> Batcher[str]:
    return Batcher(BatchLimits(batch_size=batch_size, max_delay=max_delay))


def keys(taken: Taken[str] | None) -> list[int]:
    return [] if taken is None else [key for key, _ in taken.jobs]


def interleave(queue: Batcher[str], count: int) -> None:
    """Add jobs 0, 2, 4... of one shape and 1, 3, 5... of another, one each 0.1 s."""
    for key in range(count):
        queue.add(key, str(key), 0.1 * key, hint=WIDE if key % 2 else SQUARE)


def test_interleaved_shapes_never_share_a_batch():
    queue = batcher(batch_size=3, max_delay=0.0)
    interleave(queue, 8)
    batches = [keys(queue.take(1.0)) for _ in range(4)]
    assert batches == [[0, 2, 4], [1, 3, 5], [6], [7]]


def test_a_full_batch_does_not_wait_for_the_delay_of_another_shape():
    queue = batcher(batch_size=2)
    interleave(queue, 2)
    queue.add(3, "3", 0.3, hint=WIDE)
    assert queue.next_due(0.3) == 0.3
    taken = queue.take(0.3)
    assert (keys(taken), taken.why) == ([1, 3], "full")
    assert queue.next_due(0.3) == 1.0, "the square one still waits for company"


def test_a_batch_is_taken_from_the_shape_that_has_waited_longest():
    queue = batcher(batch_size=2)
    interleave(queue, 6)
    assert [keys(queue.take(0.6)) for _ in range(3)] == [[0, 2], [1, 3], []]
    assert keys(queue.take(1.45)) == [4]


def test_a_shape_whose_delay_is_over_goes_before_a_full_one_that_came_later():
    queue = batcher(batch_size=2)
    queue.add(1, "1", 0.0, hint=WIDE)
    queue.add(2, "2", 0.9, hint=SQUARE)
    queue.add(3, "3", 0.9, hint=SQUARE)
    taken = queue.take(1.0)
    assert (keys(taken), taken.why) == ([1], "delay over")
    assert keys(queue.take(1.0)) == [2, 3]


def test_only_a_full_batch_may_be_asked_for_before_another_one_is_due():
    queue = batcher(batch_size=2)
    queue.add(1, "1", 0.0, hint=WIDE)
    assert queue.take(0.9, only_full=True) is None
    queue.add(2, "2", 0.9, hint=SQUARE)
    queue.add(3, "3", 0.9, hint=SQUARE)
    assert keys(queue.take(0.9, only_full=True)) == [2, 3]


def test_a_full_batch_does_not_pass_one_that_is_due_and_could_grow():
    queue = batcher(batch_size=2)
    queue.add(1, "1", 0.0, hint=WIDE)
    queue.add(2, "2", 0.9, hint=SQUARE)
    queue.add(3, "3", 0.9, hint=SQUARE)
    assert queue.take(1.0, only_full=True) is None


def test_a_shape_that_was_asked_for_once_is_forgotten():
    queue = batcher(batch_size=1)
    for key in range(1000):
        queue.add(key, "job", 0.0, hint=BatchHint(str(key).encode()))
    while queue.take(0.0):
        pass
    assert len(queue) == 0
    assert not queue._lines
    assert len(queue._ready._heap) + len(queue._waiting._heap) <= 2 * SLACK


def test_jobs_that_come_and_leave_behind_one_that_stays_take_no_room():
    queue = batcher(batch_size=9)
    queue.add(0, "stays", 0.0, priority=-1000)
    for key in range(1, 1000):
        queue.add(key, "leaves", 0.0)
        queue.remove(key)
    (line,) = queue._lines.values()
    assert len(line._ranks) <= 2 * len(line) + SLACK
    assert keys(queue.take(1.0)) == [0]


def test_a_sequence_model_gets_jobs_of_all_shapes_in_order_without_delay():
    queue = batcher(batch_size=9)
    interleave(queue, 4)
    queue.add(4, "4", 0.4, priority=0, hint=WIDE)
    taken = queue.take_some(0.4, 3)
    assert (keys(taken), taken.why, taken.arrived) == ([4, 0, 1], "joins", 0.0)
    assert keys(queue.take_some(0.4, 3)) == [2, 3]
    assert queue.take_some(0.4, 3) is None


def test_a_key_is_queued_once():
    queue = batcher()
    queue.add(1, "1", 0.0)
    with pytest.raises(AssertionError):
        queue.add(1, "again", 2.0)
    with pytest.raises(AssertionError):
        queue.put_back(1, "again", 1.0)

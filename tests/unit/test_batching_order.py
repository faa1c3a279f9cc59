"""Priority decides between requests of the same time, waiting between all others: nothing starves."""

from __future__ import annotations

from frame.policy.batching import AGEING_SPAN, Batcher, BatchLimits, lead
from frame.wire.hints import BatchHint


def batcher(batch_size: int = 1, max_delay: float = 0.0) -> Batcher[str]:
    return Batcher(BatchLimits(batch_size=batch_size, max_delay=max_delay))


def leave(queue: Batcher[str], now: float) -> list[str]:
    """Take everything that is due and return the jobs in the order of leaving."""
    jobs: list[str] = []
    while (taken := queue.take(now)) is not None:
        jobs += [job for _, job in taken.jobs]
    return jobs


def test_a_lower_number_goes_first_and_equal_ones_in_order_of_arrival():
    queue = batcher()
    for key, priority in enumerate([9, 3, -1, 3, 9]):
        queue.add(key, f"{priority}.{key}", 0.0, priority=priority)
    assert leave(queue, 0.0) == ["-1.2", "3.1", "3.3", "9.0", "9.4"]


def test_a_job_that_has_waited_overtakes_a_more_urgent_one_that_came_later():
    one_step = lead(4) - lead(3)
    for later, expected in [
        (one_step - 0.01, ["urgent", "patient"]),
        (one_step + 0.01, ["patient", "urgent"]),
    ]:
        queue = batcher()
        queue.add(1, "patient", 0.0, priority=4)
        queue.add(2, "urgent", later, priority=3)
        assert leave(queue, later) == expected


def test_a_stream_of_urgent_jobs_holds_the_least_urgent_one_up_for_a_bounded_time():
    queue = batcher()
    queue.add(0, "patient", 0.0, priority=1000)
    for key in range(1, 100):
        queue.add(key, "urgent", float(key), priority=-1000)
        if queue.take(float(key)).jobs == [(0, "patient")]:
            break
    assert key <= 2 * AGEING_SPAN + 1


def test_urgent_jobs_of_one_shape_do_not_starve_another_shape():
    queue = batcher(batch_size=2, max_delay=1.0)
    queue.add(0, "patient", 0.0, priority=9, hint=BatchHint(b"wide"))
    for key in range(1, 200, 2):
        now = 0.5 * key
        for more in (key, key + 1):
            queue.add(more, "urgent", now, priority=0, hint=BatchHint(b"square"))
        if queue.take(now).jobs == [(0, "patient")]:
            break
    assert now <= lead(9) - lead(0) + 1.0


def test_jobs_put_back_go_before_their_equals_in_the_order_they_had():
    queue = batcher(batch_size=2)
    for key in range(4):
        queue.add(key, str(key), 0.0)
    taken = queue.take(0.0)
    for key, job in reversed(taken.jobs):
        queue.put_back(key, job, taken.arrived)
    assert leave(queue, 0.0) == ["0", "1", "2", "3"]


def test_a_more_urgent_job_goes_before_one_that_was_put_back():
    queue = batcher()
    queue.put_back(1, "returned", 0.0)
    queue.add(2, "urgent", 0.0, priority=2)
    assert leave(queue, 0.0) == ["urgent", "returned"]


def test_a_job_whose_body_took_long_has_the_place_of_its_arrival():
    queue = batcher()
    queue.add(1, "short body", 1.0)
    queue.add(2, "long body", 0.5)
    assert leave(queue, 1.0) == ["long body", "short body"]


def test_a_key_that_is_used_again_has_its_new_place():
    queue = batcher()
    for key in range(3):
        queue.add(key, str(key), 0.0)
    queue.remove(1)
    queue.add(1, "again", 0.0)
    assert leave(queue, 0.0) == ["0", "2", "again"]

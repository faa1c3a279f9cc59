"""How many workers a load asks for, figure by figure."""

from __future__ import annotations

import pytest
from frame.policy.scaling import ModelLoad, ScaleTo, ScalingLimits, ScalingPolicy


def policy(minimum: int = 1, maximum: int = 8, max_idle: float = 60.0) -> ScalingPolicy:
    return ScalingPolicy(ScalingLimits(minimum=minimum, maximum=maximum, max_idle=max_idle))


def load(queued: int = 0, workers: int = 1, busy: int | None = None, **more: float | None) -> ModelLoad:
    """Return a load; all workers are busy when requests wait."""
    known = {"batch_size": 1, "starting": 0, "batch_seconds": 0.1, "start_seconds": 0.0} | more
    return ModelLoad(queued=queued, workers=workers, busy=workers if busy is None else busy, **known)


def target(choice: ScaleTo | None) -> int | None:
    return None if choice is None else choice.workers


# --- up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queued", "batch_size", "expected"),
    [(2, 1, None), (3, 1, 2), (6, 1, 3), (7, 1, 4), (500, 1, 8), (16, 8, None), (17, 8, 2)],
)
def test_a_backlog_is_to_last_two_batch_times(queued: int, batch_size: int, expected: int | None) -> None:
    choice = policy().decide(load(queued, batch_size=batch_size), 0.0)
    assert target(choice) == expected


def test_the_reason_has_the_figures() -> None:
    choice = policy(maximum=4).decide(load(40, batch_seconds=0.25, workers=2), 0.0)
    assert choice == ScaleTo(
        4,
        "40 requests wait for a worker, 10 s of work at 0.25 s a batch of 1 for 2 workers; a start takes "
        "0 s; 20 wanted, maxWorkers is 4",
    )


def test_idle_workers_take_their_part_first() -> None:
    assert policy().decide(load(4, workers=4, busy=0), 0.0) is None


def test_workers_that_start_count() -> None:
    assert policy().decide(load(8, workers=1, starting=3), 0.0) is None


def test_a_start_that_takes_longer_than_the_backlog_lasts_is_not_made() -> None:
    assert policy().decide(load(99, start_seconds=10.0), 0.0) is None
    assert target(policy().decide(load(101, start_seconds=10.0), 0.0)) == 2


def test_a_queue_that_stands_for_the_time_of_a_start_gets_one() -> None:
    scaler = policy()
    standing = load(5, start_seconds=10.0)
    assert scaler.decide(standing, 0.0) is None
    assert scaler.next_look(0.0) == 10.0
    assert scaler.decide(standing, 9.9) is None
    assert scaler.decide(standing, 10.0) == ScaleTo(
        2, "5 requests wait; all 1 workers have been busy for 10 s"
    )


def test_a_standing_queue_doubles_the_workers_at_most() -> None:
    scaler = policy()
    standing = load(60, workers=3, start_seconds=10.0)
    assert scaler.decide(standing, 0.0) is None
    assert target(scaler.decide(standing, 10.0)) == 6


def test_a_short_queue_that_is_empty_after_each_dispatch_stands_all_the_same() -> None:
    scaler = policy()
    for second in range(10):
        assert scaler.decide(load(1, start_seconds=10.0), second) is None
        assert scaler.decide(load(0, busy=1, start_seconds=10.0), second + 0.5) is None
    assert target(scaler.decide(load(1, start_seconds=10.0), 10.0)) == 2


def test_an_idle_worker_ends_the_standing() -> None:
    scaler = policy()
    assert scaler.decide(load(1, start_seconds=10.0), 0.0) is None
    assert scaler.decide(load(0, busy=0, start_seconds=10.0), 5.0) is None
    assert scaler.decide(load(1, start_seconds=10.0), 10.0) is None


def test_a_queue_stands_anew_once_a_start_has_ended() -> None:
    scaler = policy()
    assert scaler.decide(load(1, start_seconds=10.0), 0.0) is None
    assert scaler.decide(load(1, starting=1, start_seconds=10.0), 9.0) is None
    assert scaler.decide(load(1, workers=2, start_seconds=10.0), 18.0) is None
    assert target(scaler.decide(load(1, workers=2, start_seconds=10.0), 19.0)) == 3


def test_without_a_measured_batch_the_count_decides_once_it_stands() -> None:
    scaler = policy()
    first = load(7, batch_seconds=None, start_seconds=2.0)
    assert scaler.decide(first, 0.0) is None
    assert scaler.next_look(0.0) == 2.0
    assert scaler.decide(first, 2.0) == ScaleTo(4, "7 requests wait for a worker, more than 1 take soon")


def test_without_any_measure_the_count_decides_at_once() -> None:
    assert target(policy().decide(load(7, batch_seconds=None, start_seconds=None), 0.0)) == 4


def test_a_batch_that_takes_no_time_asks_for_no_start() -> None:
    assert policy().decide(load(500, batch_seconds=0.0, start_seconds=1.0), 0.0) is None


def test_the_cpu_budget_limits_what_is_added_above_the_floor() -> None:
    choice = policy(minimum=2).decide(load(500, workers=2, spare_threads=3), 0.0)
    assert choice is not None
    assert choice.workers == 5
    assert choice.reason.endswith("250 wanted, the CPU threads that are left allow 5")


def test_workers_above_a_budget_that_shrank_stay_while_they_work() -> None:
    assert policy().decide(load(500, workers=4, spare_threads=0), 0.0) is None


# --- the floor and sleep ------------------------------------------------------------------------------


def test_the_floor_is_restored_whatever_happened() -> None:
    assert policy(minimum=3).decide(load(workers=1, busy=0), 0.0) == ScaleTo(
        3, "the floor is 3, 1 were there"
    )


def test_a_sleeping_model_wakes_for_its_first_request() -> None:
    scaler = policy(minimum=0)
    assert scaler.decide(load(1, workers=0, start_seconds=30.0), 0.0) == ScaleTo(
        1, "1 requests wait and no worker is there"
    )
    assert scaler.decide(load(1, workers=0, starting=1, start_seconds=30.0), 0.1) is None


def test_a_sleeping_model_wakes_even_without_a_thread_left() -> None:
    assert target(policy(minimum=0).decide(load(9, workers=0, spare_threads=-1), 0.0)) == 1


def test_a_backlog_wakes_several() -> None:
    assert target(policy(minimum=0).decide(load(9, workers=0), 0.0)) == 5


def test_a_model_sleeps_after_max_idle() -> None:
    scaler = policy(minimum=0)
    scaler.decide(load(1, workers=0), 0.0)
    assert scaler.decide(load(busy=1), 5.0) is None
    scaler.saw(0, 7.0)
    assert scaler.next_look(7.0) == 67.0
    assert scaler.decide(load(busy=0), 66.9) is None
    assert scaler.decide(load(busy=0), 67.0) == ScaleTo(
        0, "at most 0 of 1 workers were busy at once in the last 60 s"
    )
    assert scaler.next_look(67.0) is None


def test_a_model_that_was_loaded_without_a_request_stays_for_max_idle() -> None:
    scaler = policy(minimum=0)
    assert scaler.decide(load(busy=0), 100.0) is None
    assert scaler.next_look(100.0) == 160.0
    assert target(scaler.decide(load(busy=0), 160.0)) == 0


# --- down ---------------------------------------------------------------------------------------------


def test_it_goes_down_to_the_most_that_were_busy_at_once() -> None:
    scaler = policy(minimum=1)
    scaler.decide(load(busy=0, workers=5), 0.0)
    for busy, at in [(4, 1.0), (2, 10.0), (3, 20.0), (1, 30.0), (0, 40.0)]:
        scaler.saw(busy, at)
    idle = load(workers=5, busy=0)
    assert target(scaler.decide(idle, 69.0)) == 4  # four until 10
    assert target(scaler.decide(load(workers=4, busy=0), 70.0)) == 3  # three until 30
    assert scaler.decide(load(workers=3, busy=0), 89.0) is None
    assert target(scaler.decide(load(workers=3, busy=0), 90.0)) == 1


@pytest.mark.parametrize("more", [{"queued": 1, "busy": 2}, {"starting": 1, "busy": 0}])
def test_nothing_goes_while_requests_wait_or_workers_start(more: dict[str, int]) -> None:
    scaler = policy(max_idle=0.0)
    assert scaler.decide(load(workers=3, **more), 10.0) is None
    assert scaler.next_look(10.0) == 11.0


def test_what_is_one_too_many_goes_at_once_without_max_idle() -> None:
    scaler = policy(max_idle=0.0)
    scaler.decide(load(2, workers=2), 0.0)
    assert scaler.decide(load(workers=2, busy=1), 1.0) == ScaleTo(
        1, "at most 1 of 2 workers were busy at once in the last 0 s"
    )


def test_after_going_up_nothing_goes_down_before_max_idle() -> None:
    scaler = policy(max_idle=60.0)
    scaler.decide(load(), 0.0)
    assert target(scaler.decide(load(3), 100.0)) == 2
    assert scaler.decide(load(workers=2, busy=0), 159.9) is None
    assert target(scaler.decide(load(workers=2, busy=0), 160.0)) == 1


def test_a_lower_maximum_holds_at_once() -> None:
    scaler = policy(maximum=8)
    scaler.set_limits(ScalingLimits(minimum=1, maximum=2, max_idle=60.0))
    assert scaler.limits.maximum == 2
    assert scaler.decide(load(9, workers=4), 0.0) == ScaleTo(2, "maxWorkers is 2, 4 were there")


def test_what_it_remembers_is_bounded_by_the_workers() -> None:
    scaler = policy(max_idle=1e9)
    for step in range(1000):
        scaler.saw((step * 7) % 6, float(step))
    assert len(scaler._past) <= 6


def test_before_the_first_decision_there_is_nothing_to_look_at() -> None:
    assert policy().next_look(0.0) is None


def test_what_kept_a_wanted_worker_away_is_told_and_forgotten() -> None:
    scaler = policy(maximum=4)
    assert scaler.decide(load(40, batch_seconds=0.25, workers=2, spare_threads=1), 0.0) is None
    assert scaler.held_back is not None
    assert scaler.held_back.workers == 2
    assert scaler.held_back.reason.endswith("20 wanted, the CPU threads that are left allow 2")
    scaler.decide(load(0, batch_seconds=0.25, workers=2, busy=0), 1.0)
    assert scaler.held_back is None

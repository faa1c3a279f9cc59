"""What a pool tells for its explanation: its records, its workers, its counts."""

from __future__ import annotations

import pytest
from frame.policy.explain import explain
from frame.policy.records import ChoiceRecord
from frame.pool.explaining import explain_view_of

from tests.unit.pool_rig import PoolRig, answer


def run_batches(rig: PoolRig, *sizes: int) -> None:
    """Let batches of these sizes run, each for 20 ms and 2 ms more for each request."""
    for size in sizes:
        for job in [rig.job() for _ in range(size)]:
            rig.pool.submit(job)
        rig.loop.settle()
        rig.loop.advance(0.02 + 0.002 * size)
        rig.answer_all()


def view_of(rig: PoolRig, cpu_threads: int = 4):
    return explain_view_of(rig.pool, cpu_threads=cpu_threads)


def test_a_pool_tells_its_workers_limits_and_counts(start_pool):
    rig = start_pool(
        "batch_size=4", "max_batch_delay=0", "minWorkers=2", "maxWorkers=3", "quarantine_time=60"
    )
    run_batches(rig, 1, 2)
    view = view_of(rig)
    assert (view.workers, view.starting, view.queued, view.cpu_workers) == (2, 0, 0, 4)
    assert (view.scaling.minimum, view.scaling.maximum, view.limits.batch_size) == (2, 3, 4)
    assert (view.requests, view.held, view.quarantine_time, view.failure) == (3, 0, 60.0, None)
    assert view.request_seconds == pytest.approx(0.0233, abs=0.001)
    assert view.queue_seconds == 0.0
    assert not view.is_adaptive


def test_times_are_those_that_were_measured_and_the_line_through_them(start_pool):
    rig = start_pool("batch_size=4", "max_batch_delay=0", "maxWorkers=1")
    assert view_of(rig).times.measured == {}
    run_batches(rig, 1)
    assert view_of(rig).times.per_item is None
    run_batches(rig, *[1, 2, 4] * 5)
    times = view_of(rig).times
    assert times.measured == pytest.approx({1: 0.022, 2: 0.024, 4: 0.028})
    assert (times.base, times.per_item) == pytest.approx((0.02, 0.002))


def test_the_limits_are_those_of_the_last_choice(start_pool):
    rig = start_pool("batch_size=4")
    rig.pool.journal.choices.append(ChoiceRecord(at=0.0, batch_size=2, max_delay=0.005, reason="x"))
    limits = view_of(rig).limits
    assert (limits.batch_size, limits.max_delay) == (2, 0.005)


def test_a_model_on_a_gpu_has_no_limit_of_cpu_threads(start_pool):
    rig = start_pool(devices=(("gpu0",),))
    assert view_of(rig).cpu_workers is None


def test_a_failed_model_and_its_deaths_are_told(start_pool):
    rig = start_pool(is_loaded=False)
    rig.groups[0].reap("load_failed", "load model: x")
    rig.loop.settle()
    view = view_of(rig)
    assert view.failure == "load model: x"
    assert view.ends == {"load_failed": 1}
    texts = [sentence.text for sentence in explain(view).sentences]
    assert "1 worker ended without being asked since the start: 1 load failed." in texts


def test_what_waits_while_a_worker_starts_is_told(start_pool):
    rig = start_pool("maxWorkers=1")
    jobs = [rig.submit() for _ in range(3)]
    answer(rig.groups[0], jobs[0])
    view = view_of(rig)
    assert view.queued == 1
    assert len(view.journal.batches) == 3

"""A request's own time: it counts in the queue and in the worker, and ends the request, not the worker."""

from __future__ import annotations

from tests.unit.pool_rig import PoolRig, answer, where


def submit(rig: PoolRig, seconds: float, limited_by: str = "x-request-timeout"):
    """Queue a request that must be answered within `seconds`."""
    job = rig.job()
    job.deadline, job.limited_by = job.arrived + seconds, limited_by
    rig.pool.submit(job)
    rig.loop.settle()
    return job


def message_of(rig: PoolRig, job) -> str:
    found = rig.answer_of(job)
    assert (found.status, found.type_name) == (503, "PredictTimeoutError")
    return found.message


def test_a_shorter_time_than_that_of_earlier_requests_is_kept(start_pool):
    rig = start_pool("minWorkers=2", "maxWorkers=2")
    others = [rig.submit() for _ in range(3)]
    short = submit(rig, 0.5)
    rig.loop.advance(0.5)
    assert message_of(rig, short) == "no answer within 0.5 s (x-request-timeout); it was in the queue"
    assert not any(job.answer.done() for job in others)


def test_the_time_counts_in_the_worker_which_goes_on(start_pool):
    rig = start_pool()
    job = submit(rig, 0.5)
    assert where(rig, job) == [0]
    rig.loop.advance(0.5)
    assert message_of(rig, job) == "no answer within 0.5 s (x-request-timeout); it was in a worker"
    assert rig.groups[0].cancelled == {job.id}
    assert not rig.groups[0].was_killed
    rig.loop.advance(30.0)
    assert rig.groups == [] or rig.groups[0].was_killed, "the batch itself hangs"


def test_a_request_whose_time_is_over_never_reaches_a_worker(start_pool):
    rig = start_pool("minWorkers=2", "maxWorkers=2")
    running = [rig.submit(), rig.submit()]
    first = submit(rig, 0.01)
    rig.loop.advance(0.01)
    assert first.answer.done()
    late = submit(rig, 0.01)
    good = rig.submit()
    rig.loop.advance(0.02)
    assert not late.answer.done(), "the looks at the deadlines have an interval"
    answer(rig.groups[0], running[0])
    assert where(rig, good) == [0]
    assert message_of(rig, late) == "no answer within 0.01 s (x-request-timeout); it was in the queue"
    assert late.id not in rig.groups[0].bodies
    answer(rig.groups[0], good)
    assert rig.pool.metrics.requests == {"server_error": 2, "ok": 2}


def test_a_batch_of_requests_whose_time_is_over_leaves_the_worker_free(start_pool):
    rig = start_pool("minWorkers=2", "maxWorkers=2")
    running = [rig.submit(), rig.submit()]
    submit(rig, 0.01)
    rig.loop.advance(0.01)
    late = [submit(rig, 0.01) for _ in range(3)]
    rig.loop.advance(0.02)
    answer(rig.groups[0], running[0])
    assert all(job.answer.done() for job in late)
    assert where(rig, rig.submit()) == [0]


def test_a_batch_that_hangs_is_found_though_its_requests_may_wait_longer(start_pool):
    rig = start_pool("minWorkers=2")
    job = submit(rig, 300.0, "request_timeout")
    rig.loop.advance(30.0)
    assert [group.was_killed for group in rig.made[:2]] == [True, False]
    rig.made[0].reap()
    rig.loop.settle()
    assert where(rig, job) == [1]
    assert job.deaths == 1


def test_each_time_is_kept_within_the_interval_of_the_looks(start_pool):
    rig = start_pool()
    rig.submit()
    jobs = [submit(rig, 0.5 + number / 100) for number in range(20)]
    rig.loop.advance(0.75)
    assert all(job.answer.done() for job in jobs)
    rig.loop.advance(0.0)
    assert len(rig.pool.open_jobs) == 1

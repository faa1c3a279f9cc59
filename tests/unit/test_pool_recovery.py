"""When workers die, hang or do not load: what runs again, what is answered, who is replaced."""

from __future__ import annotations

import pytest
from frame.errors import LoadError, ModelNotReadyError
from frame.policy.lifecycle import GroupState
from frame.pool.jobs import StreamBrokenError
from frame.pool.views import view_of

from tests.unit.pool_rig import answer, where

LOAD_FAILED = "load_failed"


# --- recovery -------------------------------------------------------------------------------------


def test_a_job_of_a_dead_worker_is_run_again_and_answered(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.groups[0].reap()
    rig.loop.advance(1.0)
    rig.load_all()
    assert where(rig, job) == [1]
    answer(rig.groups[0], job)
    assert rig.answer_of(job).body == b"done"


def test_the_jobs_of_a_dead_batch_run_again_one_by_one(start_pool):
    rig = start_pool("batch_size=3", "max_batch_delay=0", "minWorkers=2")
    jobs = [rig.job() for _ in range(3)]
    for job in jobs:
        rig.pool.submit(job)
    rig.loop.settle()
    assert list(rig.groups[0].runs.values()) == [[job.id for job in jobs]]
    rig.groups[0].reap()
    rig.loop.settle()
    for _ in jobs:
        running = [job for job in jobs if where(rig, job)]
        assert len(running) == 1
        answer(rig.groups[0], running[0])
    assert all(job.answer.done() for job in jobs)


def test_a_request_that_is_alone_when_a_second_worker_dies_is_the_cause(start_pool):
    rig = start_pool("minWorkers=2")
    job = rig.submit()
    rig.groups[0].reap()
    rig.loop.settle()
    rig.groups[0].reap(cause="killed by SIGSEGV")
    found = rig.answer_of(job)
    assert (found.status, found.type_name) == (503, "WorkerDiedError")
    assert "twice" in found.message
    assert "SIGSEGV" in found.message


def test_a_suspect_waits_for_an_idle_worker_and_keeps_it_for_itself(start_pool):
    rig = start_pool("minWorkers=2")
    suspect, other = rig.submit(), rig.submit()
    rig.groups[0].reap()
    rig.loop.settle()
    later = rig.submit()
    assert where(rig, suspect) == where(rig, later) == []
    answer(rig.groups[0], other)
    assert where(rig, suspect) == [1]
    assert where(rig, later) == []
    answer(rig.groups[0], suspect)
    assert where(rig, later) == [1]


def test_a_suspect_that_leaves_frees_the_worker_that_was_kept_for_it(start_pool):
    rig = start_pool("minWorkers=4", "option.slots_per_group=2")
    suspect = rig.submit()
    assert where(rig, suspect) == [0]
    busy = rig.submit()
    assert where(rig, busy) == [1]
    rig.groups[0].reap()
    rig.loop.settle()
    waiting = rig.submit()
    assert where(rig, waiting) == []
    rig.pool.cancel(suspect)
    rig.loop.settle()
    assert where(rig, waiting) == [1]


def test_nothing_is_sent_to_a_worker_that_is_gone_but_not_reaped(start_pool):
    rig = start_pool("minWorkers=2")
    rig.groups[0].disconnect()
    jobs = [rig.submit(), rig.submit()]
    assert [where(rig, job) for job in jobs] == [[1], []]
    rig.groups[0].reap()
    rig.loop.settle()
    assert [job.deaths for job in jobs] == [0, 0]


def test_a_suspect_is_not_blamed_for_a_worker_that_was_gone_before(start_pool):
    rig = start_pool("minWorkers=2")
    suspect = rig.submit()
    rig.groups[1].disconnect()
    rig.groups[0].reap()
    rig.loop.settle()
    assert where(rig, suspect) == []
    rig.groups[0].reap()
    rig.loop.advance(5.0)
    rig.load_all()
    assert suspect.deaths == 1
    assert len(where(rig, suspect)) == 1


def test_a_job_that_waited_in_the_worker_for_its_turn_is_not_blamed(start_pool):
    rig = start_pool()
    running, ahead = rig.submit(), rig.submit()
    assert where(rig, running) == where(rig, ahead) == [0]
    rig.groups[0].reap()
    rig.loop.settle()
    assert (running.deaths, ahead.deaths) == (1, 0)


def test_a_model_that_says_so_is_not_run_again_after_a_crash(start_pool):
    rig = start_pool("option.retry_on_crash=false", "minWorkers=2")
    job = rig.submit()
    rig.groups[0].reap()
    found = rig.answer_of(job)
    assert (found.status, found.type_name) == (503, "WorkerDiedError")
    assert "retry_on_crash" in found.message


def test_a_stream_whose_worker_dies_is_cut_and_not_run_again(start_pool):
    rig = start_pool("minWorkers=2")
    job = rig.submit()
    rig.groups[0].begin_stream(job.id, b"first")
    stream = rig.answer_of(job).stream
    assert stream is not None
    rig.groups[0].reap()
    rig.loop.settle()
    assert bytes(rig.loop.run_until_complete(stream.next(1.0))) == b"first"
    with pytest.raises(StreamBrokenError, match="the worker ended"):
        rig.loop.run_until_complete(stream.next(1.0))
    assert where(rig, job) == []
    assert rig.pool.metrics.requests == {"server_error": 1}


# --- time -----------------------------------------------------------------------------------------


def test_a_job_in_the_queue_is_answered_at_its_deadline(start_pool):
    rig = start_pool("minWorkers=2", "batch_size=1")
    jobs = [rig.submit() for _ in range(3)]
    rig.loop.advance(30.0)
    found = rig.answer_of(jobs[2])
    assert (found.status, found.type_name) == (503, "PredictTimeoutError")
    assert "in the queue" in found.message


def test_a_batch_that_hangs_ends_its_worker_and_its_client_is_told(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.loop.advance(30.0)
    assert "in a worker" in rig.answer_of(job).message
    rig.loop.advance(0.1)
    assert rig.groups[0].was_killed
    assert rig.groups[0].reap().kind == "overdue"
    rig.loop.settle()
    assert rig.pool.metrics.restarts == {"overdue": 1}


def test_neighbours_of_a_hang_may_finish_first(start_pool):
    rig = start_pool("minWorkers=2", "option.slots_per_group=2", "option.drain_time=5")
    hanging = rig.submit()
    rig.loop.advance(20.0)
    neighbour = rig.submit()
    rig.loop.advance(11.0)
    assert not rig.groups[0].was_killed
    answer(rig.groups[0], neighbour)
    assert rig.answer_of(neighbour).body == b"done"
    assert rig.groups[0].was_killed
    assert hanging.answer.result().type_name == "PredictTimeoutError"


def test_a_neighbour_that_does_not_finish_is_run_again_without_blame(start_pool):
    rig = start_pool("minWorkers=2", "option.slots_per_group=2", "option.drain_time=5")
    rig.submit()
    rig.loop.advance(20.0)
    neighbour = rig.submit()
    rig.loop.advance(16.0)
    assert rig.groups[0].was_killed
    rig.groups[0].reap()
    rig.loop.settle()
    assert neighbour.deaths == 0
    assert neighbour in rig.pool.open_jobs


def test_a_stream_that_moves_is_no_hang(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.groups[0].begin_stream(job.id, b"first")
    for _ in range(5):
        rig.loop.advance(20.0)
        rig.groups[0].chunk(job.id, b"more")
    assert not rig.groups[0].was_killed
    rig.loop.advance(31.0)
    assert rig.groups[0].was_killed


# --- the floor of workers -------------------------------------------------------------------------


def test_a_worker_that_has_answered_is_replaced_at_once(start_pool):
    rig = start_pool()
    job = rig.submit()
    answer(rig.groups[0], job)
    rig.groups[0].reap()
    rig.loop.settle()
    assert [group.state for group in rig.groups] == [GroupState.STARTING]


def test_starts_that_answer_nothing_are_tried_later_and_later(start_pool):
    rig = start_pool("retry_threshold=99")
    waits = []
    for _ in range(4):
        rig.groups[0].reap()
        rig.loop.settle()
        began = rig.clock.now
        while not rig.groups:
            rig.loop.advance(0.25)
        waits.append(rig.clock.now - began)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_model_that_cannot_load_fails_with_its_cause_and_is_tried_again(start_pool):
    rig = start_pool(is_loaded=False)
    rig.groups[0].reap(LOAD_FAILED, "load model: ValueError: no weights")
    rig.loop.settle()
    assert rig.pool.settled.is_set()
    assert (rig.pool.status, rig.pool.reason) == ("FAILED", "load model: ValueError: no weights")
    with pytest.raises(ModelNotReadyError, match="no weights"):
        rig.submit()
    rig.loop.advance(29.0)
    assert rig.groups == []
    rig.loop.advance(1.0)
    rig.load_all()
    assert (rig.pool.status, rig.pool.reason) == ("READY", None)
    rig.submit()


def test_when_a_model_fails_all_that_waits_is_answered(start_pool):
    rig = start_pool("retry_threshold=0")
    jobs = [rig.submit() for _ in range(4)]
    rig.groups[0].reap()
    found = [rig.answer_of(job) for job in jobs]
    assert {item.status for item in found} == {503}
    assert rig.pool.status == "FAILED"
    assert rig.pool.queue_length == 0


def test_a_model_with_another_working_group_does_not_fail(start_pool):
    rig = start_pool("minWorkers=2", "retry_threshold=0")
    job = rig.submit()
    rig.groups[0].reap()
    rig.loop.settle()
    assert rig.pool.status == "READY"
    assert where(rig, job) == [1]


def test_an_environment_that_cannot_be_made_fails_the_model_and_is_tried_again(start_pool):
    calls = []

    async def prepare(found):
        calls.append(found)
        if len(calls) == 1:
            message = "requirements: pip failed"
            raise LoadError(message)
        return found

    rig = start_pool(is_loaded=False, prepare=prepare)
    assert (rig.pool.status, rig.pool.reason) == ("FAILED", "prepare: requirements: pip failed")
    rig.loop.advance(30.0)
    rig.load_all()
    assert rig.pool.status == "READY"


def test_each_device_has_the_floor_of_workers(start_pool):
    rig = start_pool("minWorkers=2", devices=(("gpu0",), ("gpu1",)), is_loaded=False)
    assert len(rig.groups) == 1, "one load at a time"
    rig.load_all()
    devices = sorted(group.settings.devices for group in rig.groups)
    assert devices == [("gpu0",), ("gpu0",), ("gpu1",), ("gpu1",)]


def test_loads_overlap_only_when_the_first_has_succeeded_and_the_model_says_so(start_pool):
    rig = start_pool("minWorkers=3", "option.parallel_loading=true", is_loaded=False)
    assert len(rig.groups) == 1
    rig.groups[0].load()
    rig.loop.settle()
    assert len(rig.groups) == 3


def test_clients_see_what_a_worker_wrote_that_never_had_a_request_and_nothing_else(start_pool):
    for had_request in (False, True):
        rig = start_pool("retry_threshold=0")
        if had_request:
            rig.submit()
        rig.groups[0].logs.tail.append("token=secret")
        rig.groups[0].reap()
        rig.loop.settle()
        assert rig.pool.status == "FAILED"
        assert rig.pool.last_lines == (() if had_request else ("token=secret",))
        assert rig.pool.log_tail == ("token=secret",)


def test_below_the_floor_it_is_told_how_the_last_worker_ended(start_pool):
    rig = start_pool()
    assert view_of(rig.pool).reason is None
    rig.groups[0].reap("hung", "no heartbeat for 12 s")
    rig.loop.settle()
    assert view_of(rig.pool).reason == "a worker ended (hung): no heartbeat for 12 s"
    rig.loop.advance(1.0)
    rig.load_all()
    assert view_of(rig.pool).reason is None

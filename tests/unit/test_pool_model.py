"""A model's pool: who is admitted, what is dispatched when, what is counted, and how it ends."""

from __future__ import annotations

import pytest
from frame.errors import CapacityError, ModelNotReadyError

from tests.unit.pool_rig import answer, where

# --- admission ------------------------------------------------------------------------------------


def test_before_the_first_worker_is_loaded_requests_are_refused(start_pool):
    rig = start_pool(is_loaded=False)
    with pytest.raises(ModelNotReadyError, match="Model is not ready: m"):
        rig.submit()
    rig.load_all()
    assert rig.submit() is not None


def test_a_full_queue_refuses_the_next_request_and_only_it(start_pool):
    rig = start_pool("job_queue_size=2", slots=1, capacity=1)
    running, *waiting = [rig.submit() for _ in range(3)]
    with pytest.raises(CapacityError):
        rig.submit()
    answer(rig.groups[0], running)
    rig.submit()
    assert not any(job.answer.done() for job in waiting)


def test_jobs_sent_ahead_of_their_turn_count_as_queued(start_pool):
    rig = start_pool("job_queue_size=1")
    rig.submit()
    ahead = rig.submit()
    assert where(rig, ahead) == [0]
    assert rig.pool.queue_length == 1
    with pytest.raises(CapacityError):
        rig.submit()


# --- dispatch -------------------------------------------------------------------------------------


def test_requests_wait_for_company_no_longer_than_the_delay(start_pool):
    rig = start_pool("batch_size=2", "max_batch_delay=500")
    alone = rig.submit()
    rig.loop.advance(0.49)
    assert where(rig, alone) == []
    rig.loop.advance(0.01)
    assert where(rig, alone) == [0]


def test_a_freed_slot_takes_what_waits_at_once(start_pool):
    rig = start_pool("minWorkers=2")
    jobs = [rig.submit() for _ in range(3)]
    assert where(rig, jobs[2]) == []
    answer(rig.groups[1], jobs[1])
    assert where(rig, jobs[2]) == [1]


def test_a_sequence_model_is_given_what_it_has_room_for(start_pool):
    rig = start_pool("batch_size=8", "max_batch_delay=500", slots=1, capacity=2)
    jobs = [rig.submit() for _ in range(3)]
    assert [where(rig, job) for job in jobs] == [[0], [0], []]
    rig.groups[0].begin_stream(jobs[0].id, b"word")
    rig.groups[0].end_stream(jobs[0].id)
    assert where(rig, jobs[2]) == [0]


def test_a_cancelled_job_of_a_sequence_model_gives_its_place_back(start_pool):
    rig = start_pool(slots=1, capacity=1)
    first, second = rig.submit(), rig.submit()
    rig.pool.cancel(first)
    assert rig.groups[0].cancelled == {first.id}
    rig.groups[0].pass_over_cancelled()
    assert where(rig, second) == [0]


# --- the end --------------------------------------------------------------------------------------


def test_a_closing_pool_answers_what_it_has_and_takes_no_more(start_pool):
    rig = start_pool("batch_size=4", "max_batch_delay=5000")
    job = rig.submit()
    closing = rig.loop.create_task(rig.pool.close(10.0))
    rig.loop.settle()
    with pytest.raises(ModelNotReadyError, match="shutting down"):
        rig.submit()
    assert where(rig, job) == [0], "nothing waits for company any more"
    answer(rig.groups[0], job)
    rig.loop.settle()
    assert closing.done()
    assert rig.answer_of(job).body == b"done"
    assert rig.groups[0].drain_was_asked
    rig.groups[0].reap()
    rig.loop.settle()
    assert rig.task.done()


def test_what_is_not_done_in_time_is_answered_when_the_pool_closes(start_pool):
    rig = start_pool()
    running, waiting = rig.submit(), rig.submit()
    closing = rig.loop.create_task(rig.pool.close(2.0))
    rig.loop.advance(2.0)
    assert closing.done()
    for job in (running, waiting):
        found = rig.answer_of(job)
        assert (found.status, found.message) == (503, "Model is shutting down: m")
    for group in rig.groups:
        group.reap()
    rig.loop.settle()
    assert rig.task.done()


def test_a_pool_that_cools_down_closes_without_waiting(start_pool):
    rig = start_pool(is_loaded=False)
    rig.groups[0].reap("load_failed", "load model: x")
    rig.loop.settle()
    rig.loop.create_task(rig.pool.close(10.0))
    rig.loop.settle()
    assert rig.task.done()


# --- what is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "type_name", "outcome"),
    [(200, "", "ok"), (424, "HandlerError", "model_error"), (400, "BadRequestError", "client_error")],
)
def test_a_stream_is_counted_by_its_status(start_pool, status, type_name, outcome):
    rig = start_pool()
    job = rig.submit()
    rig.groups[0].begin_stream(job.id, b"", status=status, type_name=type_name)
    rig.groups[0].end_stream(job.id)
    assert rig.pool.metrics.requests == {outcome: 1}


def test_the_end_of_a_stream_that_did_not_begin_answers_its_job(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.groups[0].end_stream(job.id)
    assert rig.answer_of(job).status == 503


def test_a_job_that_its_worker_passes_over_is_answered(start_pool):
    rig = start_pool()
    job = rig.submit()
    batch = next(iter(rig.groups[0].runs))
    rig.groups[0].answer(batch, {}, is_end=True)
    assert rig.answer_of(job).type_name == "WorkerDiedError"


def test_a_client_that_leaves_is_counted_once_and_its_worker_is_told(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.pool.cancel(job)
    rig.pool.cancel(job)
    assert rig.groups[0].cancelled == {job.id}
    rig.answer_all()
    assert rig.pool.metrics.requests == {"cancelled": 1}
    assert job.parts[0][1].segments == []

"""A pool's workers follow its load: threads of a copy first, then copies; none while nobody asks."""

from __future__ import annotations

import asyncio
from typing import Any

from frame.policy.lifecycle import GroupState
from frame.pool.deaths import OutOfMemoryKills
from frame.pool.placer import NoRoomError, Ticket
from frame.pool.plan import ModelPlan, Place

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import PoolRig, answer

SCALES = ("minWorkers=1", "maxWorkers=4", "max_idle_time=5")


def workers(rig: PoolRig) -> int:
    return rig.pool._supervisor.planned_workers()


def submit_many(rig: PoolRig, count: int) -> list:
    return [rig.submit() for _ in range(count)]


def finish(rig: PoolRig, *jobs) -> None:
    """Let workers answer until these jobs are done."""
    for _ in range(200):
        if all(job.answer.done() for job in jobs):
            return
        rig.load_all()
        rig.answer_all()
        rig.loop.advance(0.05)
    raise AssertionError("not answered")


def test_a_backlog_brings_several_copies_at_once(start_pool):
    rig = start_pool(*SCALES)
    jobs = submit_many(rig, 12)
    rig.loop.advance(0.1)
    assert workers(rig) == 4
    assert len(rig.groups) == 4
    finish(rig, *jobs)
    record = rig.pool.journal.scalings[-1]
    assert record.target == 4
    assert "requests wait" in record.reason


def test_a_model_that_is_shared_gets_threads_instead_of_copies():
    rig = PoolRig(plan("minWorkers=1\nmaxWorkers=4"))
    try:
        rig.load_all(concurrency=4)
        jobs = submit_many(rig, 12)
        rig.loop.advance(0.1)
        rig.groups[0].report_slots(4)
        rig.loop.settle()
        assert len(rig.groups) == 1
        assert len(rig.groups[0].running()) == 4
        finish(rig, *jobs)
        assert rig.pool.metrics.scalings["up"] >= 1
    finally:
        rig.dispose()


def test_workers_above_the_floor_end_when_they_are_not_needed(start_pool):
    rig = start_pool(*SCALES)
    finish(rig, *submit_many(rig, 12))
    assert workers(rig) == 4
    for _ in range(3):
        rig.loop.advance(6.0)
        for group in rig.groups:
            if group.drain_was_asked:
                group.reap()
        rig.loop.settle()
    assert workers(rig) == len(rig.groups) == 1
    assert rig.pool.metrics.scalings["down"] >= 1
    assert "busy" in rig.pool.journal.scalings[-1].reason


def test_without_a_floor_the_first_request_starts_a_worker_and_waits(start_pool):
    rig = start_pool("minWorkers=0", "maxWorkers=2", is_loaded=False)
    assert rig.groups == []
    assert rig.pool.status == "READY"
    job = rig.submit()
    assert [group.state for group in rig.groups] == [GroupState.STARTING]
    rig.loop.advance(5.0)
    rig.load_all()
    answer(rig.groups[0], job)
    assert rig.answer_of(job).status == 200
    rig.loop.advance(61.0)
    assert rig.groups[0].drain_was_asked


def test_a_model_on_demand_keeps_its_floor_once_it_was_asked(start_pool):
    rig = start_pool("minWorkers=2", "load_on_demand=true", is_loaded=False)
    assert rig.groups == []
    job = rig.submit()
    rig.load_all()
    answer(rig.groups[0], job)
    assert workers(rig) == 2
    rig.loop.advance(1000.0)
    assert workers(rig) == 2


def test_an_unloaded_model_is_started_by_its_next_request(start_pool):
    rig = start_pool("load_on_demand=true", is_loaded=False)
    job = rig.submit()
    rig.load_all()
    answer(rig.groups[0], job)
    unloading = rig.loop.create_task(rig.pool.unload())
    rig.loop.settle()
    assert rig.groups[0].drain_was_asked
    rig.groups[0].reap()
    rig.loop.settle()
    assert unloading.done()
    assert rig.groups == []
    assert rig.pool.journal.scalings[-1].reason == "it was idle, and another model needed its memory"
    assert rig.pool.metrics.scalings["down"] == 1
    again = rig.submit()
    rig.load_all()
    answer(rig.groups[0], again)
    assert rig.answer_of(again).status == 200


class Room:
    """Leave to start, as long as there is room."""

    def __init__(self, copies: int) -> None:
        self.kills = OutOfMemoryKills()
        self.copies = copies
        self.spare: int | None = None
        self.asked: list[bool] = []

    async def admit(self, plan: ModelPlan, place: Place, *, is_extra: bool) -> Ticket:
        self.asked.append(is_extra)
        await asyncio.sleep(0)
        if not self.copies:
            raise NoRoomError("no room for another copy: 20 MB are free")
        self.copies -= 1
        return Ticket()

    def spare_workers(self, plan: ModelPlan) -> int | None:
        return self.spare


def pool_with(room: Room, text: str) -> PoolRig:
    rig = PoolRig(plan("option.slots_per_group=1\n" + text), resources=room)
    rig.load_all()
    return rig


def test_a_copy_without_room_is_tried_again_while_the_others_serve():
    room = Room(1)
    rig = pool_with(room, "minWorkers=1\nmaxWorkers=2")
    try:
        jobs = submit_many(rig, 8)
        rig.loop.advance(1.0)
        assert len(rig.groups) == 1
        assert rig.pool.status == "READY"
        room.copies = 1
        rig.loop.advance(6.0)
        assert len(rig.groups) == 2
        finish(rig, *jobs)
    finally:
        rig.dispose()


def test_a_model_without_room_for_its_first_copy_has_failed_and_says_why():
    room = Room(0)
    rig = pool_with(room, "")
    try:
        assert rig.pool.status == "FAILED"
        assert rig.pool.reason == "no room for another copy: 20 MB are free"
        room.copies = 1
        rig.loop.advance(31.0)
        rig.load_all()
        assert rig.pool.status == "READY"
    finally:
        rig.dispose()


def test_the_cpu_budget_limits_the_workers_above_the_floor():
    room = Room(10)
    room.spare = 1
    rig = pool_with(room, "minWorkers=1\nmaxWorkers=4")
    try:
        jobs = submit_many(rig, 12)
        rig.loop.advance(0.5)
        assert workers(rig) == 2
        finish(rig, *jobs)
    finally:
        rig.dispose()


def test_a_scaled_model_closes_with_all_its_workers(start_pool):
    rig: Any = start_pool(*SCALES)
    submit_many(rig, 12)
    rig.loop.advance(0.1)
    rig.close()
    assert rig.groups == []

"""Starts of workers that go wrong or come late: what pauses, what does not, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from frame.policy.lifecycle import GroupState
from frame.pool.deaths import OutOfMemoryKills
from frame.pool.placer import NoRoomError, Resources, Ticket
from frame.pool.plan import ModelPlan, Place

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import FakeGroup, PoolRig, answer

GPUS = (("gpu0",), ("gpu1",))


class Room:
    """Leave to start for so many groups; who asks while the gate is closed waits."""

    def __init__(self, copies: int = 100) -> None:
        self.kills = OutOfMemoryKills()
        self.copies = copies
        self.asked: list[bool] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Exception | None = None

    async def admit(self, plan: ModelPlan, place: Place, *, is_extra: bool) -> Ticket:
        self.asked.append(is_extra)
        await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        if self.copies <= 0:
            raise NoRoomError("no room for another copy: 20 MB are free")
        self.copies -= 1
        return Ticket()

    def spare_workers(self, plan: ModelPlan) -> int | None:
        return None


@contextmanager
def pool_of(*lines: str, room: Room | None = None, devices=(("cpu",),)) -> Iterator[PoolRig]:
    text = "\n".join(("option.slots_per_group=1", "option.predict_timeout=300", *lines))
    resources: Resources = room or Room()
    rig = PoolRig(plan(text, devices=devices), resources=resources)
    try:
        yield rig
    finally:
        rig.dispose()


def starting(rig: PoolRig) -> list[FakeGroup]:
    return [group for group in rig.groups if group.state is GroupState.STARTING]


def backlog(rig: PoolRig, count: int = 12) -> None:
    for _ in range(count):
        rig.submit()
    rig.loop.advance(0.2)


def answer_for(rig: PoolRig, seconds: float) -> None:
    """Let what is up answer each 0.25 s, with new requests behind it."""
    for _ in range(int(seconds * 4)):
        rig.answer_all()
        while rig.pool.queue_length < 8:
            rig.submit()
        rig.loop.advance(0.25)


def test_an_unloaded_model_starts_nothing_that_waited_for_room():
    room = Room()
    with pool_of("minWorkers=0", "maxWorkers=2", room=room) as rig:
        room.gate.clear()
        job = rig.submit()
        assert room.asked == [False]
        rig.pool.cancel(job)
        unloading = rig.loop.create_task(rig.pool.unload())
        rig.loop.settle()
        assert unloading.done()
        room.gate.set()
        rig.loop.settle()
        assert rig.groups == []
        later = rig.submit()
        rig.load_all()
        answer(rig.groups[0], later)
        assert rig.answer_of(later).status == 200


def test_only_a_worker_that_a_model_could_serve_without_is_extra():
    room = Room()
    with pool_of("minWorkers=2", "maxWorkers=4", room=room) as rig:
        rig.load_all()
        assert room.asked == [False, False]
        backlog(rig)
        assert room.asked == [False, False, True, True]
    first = Room()
    with pool_of("minWorkers=0", "maxWorkers=1", room=first) as rig:
        rig.submit()
        assert first.asked == [False]


def test_copies_that_die_while_they_load_are_tried_less_and_less_beside_one_that_answers():
    with pool_of("minWorkers=1", "maxWorkers=2") as rig:
        rig.load_all()
        backlog(rig)
        for _ in range(60):
            for group in starting(rig):
                group.reap()
            answer_for(rig, 1.0)
        assert len(rig.made) <= 12
        assert rig.pool.status == "READY"


def test_no_room_while_a_dead_process_holds_its_memory_is_no_failure():
    room = Room(1)
    with pool_of("minWorkers=1", "maxWorkers=1", room=room) as rig:
        rig.load_all()
        dying = rig.groups[0]
        dying.disconnect()
        job = rig.submit()
        rig.loop.advance(1.0)
        assert rig.pool.status == "READY"
        assert not job.answer.done()
        room.copies = 1
        dying.reap()
        rig.loop.advance(0.6)
        rig.load_all()
        answer(rig.groups[0], job)
        assert rig.answer_of(job).status == 200


def test_a_model_is_settled_when_a_part_of_its_floor_has_no_room():
    with pool_of("minWorkers=2", "maxWorkers=2", room=Room(1)) as rig:
        assert not rig.pool.settled.is_set()
        rig.load_all()
        assert rig.pool.settled.is_set()
        assert rig.pool.status == "READY"


def test_a_model_is_settled_when_a_part_of_its_floor_does_not_load():
    with pool_of("minWorkers=2", "maxWorkers=2") as rig:
        rig.groups[0].load()
        rig.loop.settle()
        assert not rig.pool.settled.is_set()
        starting(rig)[0].reap("load_failed", "load model: no such file")
        rig.loop.settle()
        assert rig.pool.settled.is_set()


def test_each_device_gets_its_floor_back_though_another_has_more():
    with pool_of("minWorkers=1", "maxWorkers=2", "max_idle_time=60", devices=GPUS) as rig:
        rig.load_all()
        backlog(rig)
        rig.load_all()
        assert len(rig.groups) == 4
        while rig.pool.leases:
            rig.answer_all()
        for group in rig.groups:
            if group.settings.devices == ("gpu1",):
                group.reap()
        rig.loop.advance(1.0)
        rig.load_all()
        assert sum(group.settings.devices == ("gpu1",) for group in rig.groups) == 1
        rig.loop.advance(200.0)
        for group in rig.groups:
            if group.drain_was_asked:
                group.reap()
        rig.loop.settle()
        assert sorted(group.settings.devices for group in rig.groups) == [("gpu0",), ("gpu1",)]


def test_queued_work_is_finished_at_the_end_though_the_next_worker_is_not_there_yet():
    with pool_of("minWorkers=1", "maxWorkers=1") as rig:
        rig.load_all()
        rig.groups[0].reap()
        job = rig.submit()
        assert rig.groups == []
        closing = rig.loop.create_task(rig.pool.close(10.0))
        rig.loop.advance(1.0)
        assert not closing.done()
        rig.load_all()
        answer(rig.groups[0], job)
        assert rig.answer_of(job).status == 200
        assert closing.done()


def test_two_who_close_a_model_both_see_its_last_request_end():
    with pool_of("minWorkers=1", "maxWorkers=1") as rig:
        rig.load_all()
        job = rig.submit()
        closing = [rig.loop.create_task(rig.pool.close(seconds)) for seconds in (300.0, 10.0)]
        rig.loop.settle()
        answer(rig.groups[0], job)
        rig.loop.settle()
        assert all(task.done() for task in closing)


def test_a_model_that_is_closed_while_it_loads_keeps_nobody_waiting():
    with pool_of("minWorkers=1", "maxWorkers=1") as rig:
        assert not rig.pool.settled.is_set()
        rig.close()
        assert rig.pool.settled.is_set()


def test_an_error_while_asking_for_room_fails_the_model_and_not_the_server():
    room = Room()
    room.broken = OSError("Too many open files")
    with pool_of("minWorkers=1", "maxWorkers=1", room=room) as rig:
        assert rig.pool.status == "FAILED"
        assert "Too many open files" in (rig.pool.reason or "")
        room.broken = None
        rig.loop.advance(31.0)
        rig.load_all()
        assert rig.pool.status == "READY"


def test_a_model_that_dies_late_in_each_of_its_loads_fails():
    with pool_of("minWorkers=1", "maxWorkers=1") as rig:
        for _ in range(6):
            rig.loop.advance(50.0)
            starting(rig)[0].reap()
            rig.loop.settle()
        assert rig.pool.status == "FAILED"
        assert "SIGKILL" in (rig.pool.reason or "")
        assert rig.pool.settled.is_set()


def test_a_model_on_demand_that_failed_is_tried_again_by_a_request_and_not_by_itself():
    with pool_of("minWorkers=1", "maxWorkers=1", "load_on_demand=true") as rig:
        rig.submit()
        starting(rig)[0].reap("load_failed", "load model: no such file")
        rig.loop.settle()
        assert rig.pool.status == "FAILED"
        rig.loop.advance(100.0)
        assert rig.groups == []
        assert rig.pool.status == "READY"
        job = rig.submit()
        rig.load_all()
        answer(rig.groups[0], job)
        assert rig.answer_of(job).status == 200


def test_a_copy_that_did_not_load_keeps_nobody_waiting_once_the_others_are_idle_and_gone():
    with pool_of("minWorkers=0", "maxWorkers=2", "max_idle_time=1") as rig:
        rig.submit()
        rig.load_all()
        backlog(rig)
        starting(rig)[0].reap("load_failed", "load model: no such file")
        while rig.pool.leases:
            rig.answer_all()
        rig.loop.advance(5.0)
        rig.groups[0].reap()
        rig.loop.settle()
        assert rig.groups == []
        rig.submit()
        assert len(rig.groups) == 1


def test_the_end_of_an_older_process_does_not_cut_the_pause_of_a_failed_model_short():
    with pool_of("minWorkers=1", "maxWorkers=1") as rig:
        rig.load_all()
        older, job = rig.groups[0], rig.submit()
        answer(older, job)
        older.disconnect()
        rig.submit()
        starting(rig)[0].reap("load_failed", "load model: no such file")
        rig.loop.settle()
        older.reap()
        rig.loop.advance(29.0)
        assert rig.pool.status == "FAILED"
        assert rig.groups == []
        rig.loop.advance(2.0)
        rig.load_all()
        assert rig.pool.status == "READY"

"""Slots of a group that change while it runs: what is sent where, and when a batch counts as started."""

from __future__ import annotations

import logging

import pytest

from tests.unit.pool_rig import FakeGroup, PoolRig, answer


@pytest.fixture
def rig(start_pool) -> PoolRig:
    """Return a pool of one group with one slot of at most three, whose number of workers is the test's."""
    return start_pool("minWorkers=1", "maxWorkers=3", "option.slots_per_group=3", slots=1, concurrency=3)


def the_group(rig: PoolRig) -> FakeGroup:
    return rig.groups[0]


def resize(rig: PoolRig, slots: int) -> FakeGroup:
    group = the_group(rig)
    group.resize(slots)
    rig.loop.settle()
    return group


def test_more_slots_count_when_they_are_warm(rig):
    group = resize(rig, 3)
    assert (group.slots, group.plan_slots) == (1, 3)
    assert group.resizes == {1: 3}
    group.report_slots(1)
    group.report_slots(2)
    assert (group.slots, group.plan_slots) == (2, 3)
    group.report_slots(3)
    assert group.slots == 3


def test_a_new_slot_gets_what_waits(rig):
    first, second, third = (rig.submit() for _ in range(3))
    group = resize(rig, 2)
    group.report_slots(2)
    rig.loop.settle()
    assert group.running() == list(group.runs)[:2]
    answer(group, second)
    answer(group, first)
    answer(group, third)
    assert [rig.answer_of(job).status for job in (first, second, third)] == [200] * 3


def test_a_batch_that_waited_in_the_worker_starts_with_the_new_slot(start_pool):
    rig = start_pool("option.predict_timeout=30", concurrency=2)
    for _ in range(2):
        rig.submit()
    group = the_group(rig)
    waiting = list(group.batches.values())[1]
    assert not waiting.has_started
    rig.loop.advance(10.0)
    group.resize(2)
    group.report_slots(2)
    rig.loop.settle()
    assert (waiting.started, waiting.deadline) == (1010.0, 1040.0)


def test_fewer_slots_count_at_once_and_running_batches_finish(start_pool):
    rig = start_pool("option.slots_per_group=3", "minWorkers=3", "maxWorkers=3")
    jobs = [rig.submit() for _ in range(3)]
    group = resize(rig, 1)
    assert (group.slots, group.plan_slots) == (1, 1)
    later = rig.submit()
    assert len(group.runs) == 3
    for job in jobs:
        answer(group, job)
    assert [rig.answer_of(job).status for job in jobs] == [200] * 3
    rig.loop.settle()
    assert later.group_key == group.key


def test_a_batch_that_a_leaving_slot_lets_through_has_started(start_pool):
    rig = start_pool("option.slots_per_group=2", "minWorkers=2", "maxWorkers=2")
    first, _ = rig.submit(), rig.submit()
    group = resize(rig, 1)
    answer(group, first)
    later = rig.submit()  # the leaving thread runs its last batch beside it
    batch = group.batches[later.batch]
    assert batch.has_started
    group.report_slots(1)
    assert group.taken == []


def test_the_last_word_counts_and_reports_on_earlier_ones_do_not(rig):
    for slots in (3, 1, 3):
        group = resize(rig, slots)
    group.resizes = {1: 3}  # the worker has read the first one only, and will let two slots leave
    group.report_slots(3)
    assert (group.slots, group.plan_slots) == (1, 3)


def test_slots_that_are_to_leave_get_nothing_more(rig):
    group = resize(rig, 3)
    group.report_slots(3)
    resize(rig, 1)
    group.report_slots(3)
    assert (group.slots, group.plan_slots) == (1, 1)


def test_slots_are_asked_for_within_what_the_copy_allows(rig):
    assert resize(rig, 9).resizes == {1: 3}
    assert resize(rig, 3).resizes == {1: 3}, "that is what it was asked for"
    assert resize(rig, 0).resizes == {1: 3, 2: 1}


def test_a_slot_that_cannot_be_warmed_up_leaves_those_that_there_are(rig, caplog):
    group = resize(rig, 3)
    with caplog.at_level(logging.WARNING):
        group.report_slots(2, wanted=2, error="RuntimeError: no more streams")
    assert (group.slots, group.plan_slots, group.concurrency) == (2, 2, 2)
    assert "worker_slot_failed model=m group=1 slots=2 cause=RuntimeError: no more streams" in caplog.text
    assert resize(rig, 3).resizes == {1: 3}, "it is not tried again on this copy"
    assert rig.submit().group_key == group.key


def test_a_group_that_starts_or_ends_is_not_resized(start_pool):
    rig = start_pool("minWorkers=1", is_loaded=False)
    group = resize(rig, 3)
    assert (group.plan_slots, group.resizes) == (1, {})
    group.load(concurrency=3)
    group.drain()
    assert resize(rig, 3).resizes == {}
    group.report_slots(3)
    assert group.slots == 1

"""What is started, resized and ended for a number of workers."""

from __future__ import annotations

from dataclasses import replace

from frame.policy.growth import EndGroup, GroupSize, ResizeGroup, StartGroup, Step, steps_to
from hypothesis import given
from hypothesis import strategies as st


def group(
    key: int = 1, slots: int = 1, *, most: int | None = None, busy: int = 0, starting: bool = False
) -> GroupSize:
    return GroupSize(key=key, slots=slots, most_slots=most or slots, busy=busy, is_starting=starting)


def steps(target: int, *groups: GroupSize, per_group: int = 4, may_overlap: bool = False) -> list[Step]:
    return steps_to(target, groups, slots_per_group=per_group, may_overlap=may_overlap)


def test_the_right_number_needs_nothing() -> None:
    assert steps(3, group(1, 2, most=4), group(2, 1)) == []


def test_a_thread_more_comes_before_a_load() -> None:
    assert steps(6, group(1, 2, most=4), group(2, 1)) == [ResizeGroup(1, 4), StartGroup(1)]


def test_a_copy_gets_no_more_slots_than_a_process_may_have() -> None:
    assert steps(4, group(1, 2, most=8), per_group=3) == [ResizeGroup(1, 3), StartGroup(1)]


def test_groups_load_one_after_another() -> None:
    assert steps(9, per_group=2) == [StartGroup(2)]
    assert steps(9, group(1, 2, starting=True), per_group=2) == []


def test_groups_load_together_once_one_is_up_and_they_may() -> None:
    assert steps(4, group(), per_group=1, may_overlap=True) == [StartGroup(1)] * 3
    assert steps(2, group(starting=True), per_group=1, may_overlap=True) == []


def test_copies_that_cannot_be_shared_start_together_with_one_slot_each() -> None:
    assert steps(4, group(), may_overlap=True) == [StartGroup(1)] * 3


def test_a_start_that_is_not_needed_any_more_goes_first() -> None:
    assert steps(2, group(1), group(2), group(3, starting=True)) == [EndGroup(3)]


def test_idle_groups_end_before_slots_the_newest_first() -> None:
    assert steps(2, group(1, 2), group(2, 2), group(3, 2)) == [EndGroup(3), EndGroup(2)]


def test_a_busy_group_does_not_end() -> None:
    assert steps(2, group(1, 2), group(2, 2, busy=1)) == [EndGroup(1)]
    assert steps(1, group(1, 1, busy=1), group(2, 1, busy=1)) == []


def test_a_group_keeps_a_slot_for_what_it_runs() -> None:
    assert steps(1, group(1, 4, busy=2)) == [ResizeGroup(1, 2)]
    assert steps(1, group(1, 4)) == [ResizeGroup(1, 1)]


def test_a_start_is_not_resized() -> None:
    assert steps(1, group(1, 4, starting=True)) == []


GROUPS = st.builds(
    lambda slots, more, busy, starting: GroupSize(
        key=0,
        slots=slots,
        most_slots=slots if starting else slots + more,
        busy=0 if starting else min(busy, slots),
        is_starting=starting,
    ),
    st.integers(1, 4), st.integers(0, 3), st.integers(0, 4), st.booleans(),
)  # fmt: skip


@given(st.lists(GROUPS, max_size=6), st.integers(0, 30), st.booleans())
def test_steps_lead_to_the_target_and_never_past_it(
    sizes: list[GroupSize], target: int, may_overlap: bool
) -> None:
    """Follow the steps, with each start done and no batch running, until there are none."""
    world = {key: replace(size, key=key) for key, size in enumerate(sizes)}
    before = sum(size.slots for size in world.values())
    for _ in range(200):
        todo = steps_to(target, list(world.values()), slots_per_group=4, may_overlap=may_overlap)
        for step in todo:
            _follow(world, step)
        now = sum(size.slots for size in world.values())
        assert min(before, target) <= now <= max(before, target)
        if not todo and not any(size.is_starting or size.busy for size in world.values()):
            break
        world = {
            key: replace(size, is_starting=False, busy=0, most_slots=max(size.most_slots, size.slots))
            for key, size in world.items()
        }
    assert sum(size.slots for size in world.values()) == target


def _follow(world: dict[int, GroupSize], step: Step) -> None:
    match step:
        case StartGroup(slots):
            key = max(world, default=0) + 1
            world[key] = GroupSize(key=key, slots=slots, most_slots=slots, busy=0, is_starting=True)
        case ResizeGroup(key, slots):
            assert world[key].busy <= slots <= world[key].most_slots
            world[key] = replace(world[key], slots=slots)
        case EndGroup(key):
            assert not world.pop(key).busy

"""From a number of workers to what is started, resized and ended: slots first, then groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize:
    """A group that is up or starting.

    Attributes:
        slots: workers that it is, or was asked to be.
        most_slots: workers that its loaded copy allows; `slots` while that is not known.
        busy: slots that run a batch.
    """

    key: int
    slots: int
    most_slots: int
    busy: int
    is_starting: bool = False


@dataclass(frozen=True, slots=True)
class StartGroup:
    """Load a further copy, and ask it to be this many workers."""

    slots: int


@dataclass(frozen=True, slots=True)
class ResizeGroup:
    """Give a group other slots: threads in a running process."""

    key: int
    slots: int


@dataclass(frozen=True, slots=True)
class EndGroup:
    """Let a group finish what it runs, then end it."""

    key: int


Step = StartGroup | ResizeGroup | EndGroup


def steps_to(
    target: int, groups: Sequence[GroupSize], *, slots_per_group: int, may_overlap: bool
) -> list[Step]:
    """Return what to do now for `target` workers; ask again when a start is done.

    More workers are first slots of copies that are loaded, then copies. Fewer are first starts that are not
    needed any more, then idle groups, the newest first, then idle slots.

    Args:
        groups: of one model on one kind of device, oldest first.
        slots_per_group: most workers of one process, >= 1.
        may_overlap: several groups may load at the same time (`option.parallel_loading`).
    """
    missing = target - sum(group.slots for group in groups)
    if missing >= 0:
        return _more(missing, groups, slots_per_group, may_overlap=may_overlap)
    return _fewer(-missing, groups)


def _more(
    missing: int, groups: Sequence[GroupSize], slots_per_group: int, *, may_overlap: bool
) -> list[Step]:
    steps: list[Step] = []
    for group in groups:
        room = min(group.most_slots, slots_per_group) - group.slots
        if missing > 0 and room > 0 and not group.is_starting:
            added = min(room, missing)
            steps.append(ResizeGroup(group.key, group.slots + added))
            missing -= added
    is_loading = any(group.is_starting for group in groups)
    is_up = any(not group.is_starting for group in groups)
    # What one loaded copy allows the next one will: ask for no more, so that enough copies start at once.
    most = max((group.most_slots for group in groups if not group.is_starting), default=slots_per_group)
    while missing > 0 and (not is_loading or (may_overlap and is_up)):
        slots = min(missing, slots_per_group, most)
        steps.append(StartGroup(slots))
        missing -= slots
        is_loading = True
    return steps


def _fewer(surplus: int, groups: Sequence[GroupSize]) -> list[Step]:
    steps: list[Step] = []
    left: list[GroupSize] = []
    for group in sorted(groups, key=lambda item: (not item.is_starting, -item.key)):
        if group.slots <= surplus and not group.busy:
            steps.append(EndGroup(group.key))
            surplus -= group.slots
        else:
            left.append(group)
    for group in left:
        removed = 0 if group.is_starting else min(surplus, group.slots - max(1, group.busy))
        if removed > 0:
            steps.append(ResizeGroup(group.key, group.slots - removed))
            surplus -= removed
    return steps

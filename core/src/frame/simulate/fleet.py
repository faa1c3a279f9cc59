"""Made-up worker groups of one model: they load, die and end as the policies say."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Protocol

from frame.policy.admission import ModelStatus
from frame.policy.conductor import Conductor, Supply
from frame.policy.growth import EndGroup, ResizeGroup, StartGroup, Step, steps_to
from frame.policy.lifecycle import FailUntil, GroupEvent, GroupState, RestartPolicy
from frame.policy.scaling import LOOK_EVERY, ScaleTo
from frame.policy.spread import PlaceCount, missing_on_places, spread
from frame.simulate.agenda import Agenda, Alarm
from frame.simulate.outcome import Outcome, Workers
from frame.simulate.settings import Settings
from frame.simulate.workers import Batch, Group, Job


class Owner(Protocol):
    """What the fleet tells."""

    outcome: Outcome

    def pump(self) -> None:
        """Slots may be free."""

    def group_ended(self, group: Group, kind: str, hung: Batch | None) -> None:
        """A group is gone, with what is in its batches."""

    def model_failed(self) -> None:
        """No group works, and none is tried again before a pause."""


class Fleet:
    """The groups of one model; does what `pool.supervisor` does, with made-up time."""

    def __init__(
        self,
        settings: Settings,
        load_seconds: float,
        agenda: Agenda,
        policies: Conductor[Group, Job],
        owner: Owner,
    ) -> None:
        self.status: ModelStatus = "PENDING"
        self.is_asleep = settings.starts_on_demand or settings.minimum == 0
        self._settings = settings
        self._load_seconds = load_seconds
        self._agenda = agenda
        self._policies = policies
        self._owner = owner
        self._groups: dict[int, Group] = {}
        self._restarts = RestartPolicy(settings.restarts)
        self._start_seconds: float | None = None
        self._not_before = 0.0
        self._looked = -LOOK_EVERY
        self._next_key = 1
        self._look_again = Alarm(agenda, self._look)
        self._has_failed = False

    @property
    def runners(self) -> Collection[Group]:
        """The groups, those that load included."""
        return self._groups.values()

    @property
    def jobs_ahead(self) -> int:
        """Jobs that wait in workers behind the batch that runs."""
        return sum(group.jobs_ahead for group in self._groups.values())

    # --- what the owner calls -------------------------------------------------------------------

    def start_floor(self) -> None:
        """Begin with the workers that are always up, up: the trace starts at a server that is ready."""
        if not self.is_asleep:
            self._look()
            while starting := [group for group in self._groups.values() if not group.takes_work]:
                for group in starting:
                    self._loaded(group)
        self.status = "READY"
        self._note_workers()

    def requests_wait(self) -> None:
        """Requests wait for a slot: see soon whether more workers are wanted."""
        if self.is_asleep:
            self.is_asleep = False
            self._look()
        elif self._planned() < self._settings.maximum and self._agenda.now >= self._looked + LOOK_EVERY:
            self._look()

    def answered(self, group: Group) -> None:
        """A batch was answered: past deaths are forgiven."""
        self._restarts.answered(group.key)

    def ended(self, group: Group, kind: str, hung: Batch | None = None) -> None:
        """End a group that nobody asked to end."""
        self._gone(group)
        self._owner.outcome.deaths += 1
        jobs = sum(len(batch.jobs) for batch in group.batches.values())
        self._policies.group_died(self._agenda.now, kind, kind, jobs)
        decided = self._restarts.died(self._agenda.now, group.key, has_answered=group.has_answered)
        self._not_before = decided.at
        if isinstance(decided, FailUntil) and not any(item.takes_work for item in self._groups.values()):
            self.status = "FAILED"
            self._owner.model_failed()
        self._owner.group_ended(group, kind, hung)
        self._look()

    # --- life -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Start or end what should be, and look again when something may have changed."""
        now = self._looked = self._agenda.now
        if self.status == "FAILED" and not self._settings.minimum and now >= self._not_before:
            self.status = "READY"  # the next request tries again
        up = self._up()
        supply = Supply(
            up=up,
            starting=self._planned() - up,
            missing=missing_on_places(self._counts()),
            ahead=self.jobs_ahead,
            start_seconds=0.0 if any(item.can_grow for item in self.runners) else self._start_seconds,
        )
        decision = self._policies.wanted_workers(now, supply, self.runners)
        if decision is not None:
            self._follow(decision)
        waits = len(self._policies.waiting) > 0 and self._planned() < self._settings.maximum
        watch = now + LOOK_EVERY if waits else None
        looks = (self._not_before, self._policies.next_look(now), watch)
        self._look_again.set(min((at for at in looks if at is not None and at > now), default=None))

    def _follow(self, decision: ScaleTo) -> None:
        """Do what brings the workers to the number decided on, as far as that is possible now."""
        before, has_changed = self._planned(), False
        places = self._settings.places
        for index, target in enumerate(spread(decision.workers, self._counts())):
            for step in steps_to(
                target,
                [group.size() for group in self._alive(index)],
                slots_per_group=places[index].slots_per_group,
                may_overlap=self._settings.loads_in_parallel or before >= self._settings.minimum,
            ):
                has_changed |= self._take(step, index)
        if has_changed:
            self._policies.scaled(self._agenda.now, before, decision)
            self._note_workers()
            self._owner.pump()

    def _take(self, step: Step, place: int) -> bool:
        """Take a step; tell whether it could be taken now."""
        match step:
            case ResizeGroup(key, slots):
                self._groups[key].slots = self._groups[key].asked = slots
            case EndGroup(key):
                self._gone(self._groups[key])  # the policy ends none that runs a batch
            case StartGroup(slots):
                if self._agenda.now < self._not_before:
                    return False
                self._start(place, slots)
        return True

    def _start(self, place: int, slots: int) -> None:
        most = self._settings.places[place].slots_per_group if self._settings.shares_model else 1
        group = Group(self._next_key, place, slots, most)
        self._next_key += 1
        self._groups[group.key] = group
        self._agenda.add(self._agenda.now + self._load_seconds, partial(self._loaded, group))

    def _loaded(self, group: Group) -> None:
        if group.state is not GroupState.STARTING:
            return
        group.become(GroupEvent.LOADED)
        group.slots = group.asked = min(group.asked, group.most_slots)
        self._start_seconds = self._load_seconds
        self.status = "READY"
        self._note_workers()
        self._owner.pump()
        self._look()

    def _gone(self, group: Group) -> None:
        group.become(GroupEvent.ENDED)
        del self._groups[group.key]
        self._note_workers()

    # --- what there is --------------------------------------------------------------------------

    def _alive(self, place: int | None = None) -> list[Group]:
        return [item for item in self._groups.values() if item.is_alive and place in {None, item.place}]

    def _counts(self) -> list[PlaceCount]:
        return [
            PlaceCount(minimum=place.minimum, maximum=place.maximum, planned=self._planned(index))
            for index, place in enumerate(self._settings.places)
        ]

    def _planned(self, place: int | None = None) -> int:
        return sum(group.workers for group in self._alive(place))

    def _up(self) -> int:
        return sum(group.slots for group in self._groups.values() if group.takes_work)

    def _note_workers(self) -> None:
        up = self._up()
        self._owner.outcome.workers.append(Workers(self._agenda.now, up, self._planned() - up))

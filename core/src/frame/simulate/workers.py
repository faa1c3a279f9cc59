"""Made-up worker groups and the batches that they have."""

from __future__ import annotations

from dataclasses import dataclass, field

from frame.policy.growth import GroupSize
from frame.policy.lifecycle import GroupEvent, GroupState, next_state
from frame.policy.records import BatchRecord
from frame.wire.hints import BatchHint


@dataclass(slots=True, eq=False)
class Job:
    """One request. Times are seconds of the trace.

    Attributes:
        deaths: groups that died with it inside.
        is_done: it was answered, or refused.
    """

    key: int
    arrived: float
    deadline: float
    priority: int
    hint: BatchHint
    deaths: int = 0
    is_done: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that a group has.

    Attributes:
        started: when a slot began with it; None while it waits behind another batch.
        is_cut: its group ended first.
    """

    key: int
    jobs: list[Job]
    record: BatchRecord
    is_suspect: bool
    started: float | None = None
    is_cut: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """A process with one copy of the model: a `Runner` of the dispatcher.

    What the dispatcher asks of each group for each request is kept and not worked out.

    Attributes:
        place: index of its device in the settings.
        asked: slots that it was asked to have; `slots` are those that take batches.
        most_slots: slots that its copy allows once it is loaded.
        capacity: 0, as of every model that is no `SequenceModel`.
        takes_work, sent, runs_suspect: see `Runner`.
    """

    key: int
    place: int
    asked: int
    most_slots: int
    state: GroupState = GroupState.STARTING
    slots: int = 0
    capacity: int = 0
    takes_work: bool = False
    sent: int = 0
    runs_suspect: bool = False
    has_answered: bool = False
    batches: dict[int, Batch] = field(default_factory=dict)

    def become(self, event: GroupEvent) -> None:
        """Take a step of its life."""
        self.state = next_state(self.state, event)
        self.takes_work = self.state is GroupState.READY

    def take(self, batch: Batch) -> None:
        """Have a batch."""
        self.batches[batch.key] = batch
        self.sent += 1
        self.runs_suspect = batch.is_suspect  # which runs alone

    def drop(self, batch: Batch) -> None:
        """Be done with a batch."""
        del self.batches[batch.key]
        self.sent -= 1
        self.runs_suspect = False

    @property
    def is_alive(self) -> bool:
        """Whether it counts among the workers that there are or will be."""
        return self.state in {GroupState.STARTING, GroupState.READY}

    @property
    def workers(self) -> int:
        """Workers that it is, or will be."""
        return self.slots or self.asked

    @property
    def can_grow(self) -> bool:
        """Whether another worker is a thread of it."""
        return self.takes_work and self.slots < self.most_slots

    @property
    def jobs_ahead(self) -> int:
        """Jobs that wait in it behind a batch."""
        if len(self.batches) <= self.slots:
            return 0
        return sum(len(batch.jobs) for batch in self.batches.values() if batch.started is None)

    def size(self) -> GroupSize:
        """Return it as the policy sees it."""
        return GroupSize(
            key=self.key,
            slots=self.workers,
            most_slots=max(self.workers, self.most_slots),
            busy=min(self.sent, self.workers),
            is_starting=self.state is GroupState.STARTING,
        )

"""How many workers a model should have now, and when to look again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

BACKLOG_BATCHES = 2
"""Batch times within which a backlog is to be worked off. With one worker this is DJL Serving's rule: one
more once `queue > 2 * batch_size`."""

LOOK_EVERY = 0.1
"""Seconds between two decisions while requests wait that more workers could take."""

STANDING_BATCHES = 5
STANDING_SECONDS = 1.0
"""How long a queue behind workers that are all busy is a burst, the longer of both; after that: overload."""

_SHORTEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLimits:
    """Fewest and most workers (slots) of one model, over all of its devices of one kind.

    Attributes:
        minimum, maximum: `0 <= minimum <= maximum`.
        max_idle: seconds for which a worker may have been one too many; 0: it goes at once.
    """

    minimum: int
    maximum: int
    max_idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    """What a model has to do and who does it. Take it after dispatching, when no more jobs can be sent.

    Attributes:
        queued: requests that no worker has.
        batch_size: most requests in a batch, >= 1.
        workers: those that are up; the ones that are draining are not counted.
        starting: those on their way.
        busy: of `workers`, those that run a batch.
        batch_seconds: measured mean time of a batch; None before the first.
        start_seconds: measured time until a further worker is up, 0.0 for one more thread in a process that
            runs; None before the first start.
        spare_threads: how many workers the CPU budget allows above the floor; None for no limit.
    """

    queued: int
    batch_size: int
    workers: int
    starting: int
    busy: int
    batch_seconds: float | None = None
    start_seconds: float | None = None
    spare_threads: int | None = None


@dataclass(frozen=True, slots=True)
class ScaleTo:
    """Have this many workers, those on their way included; `reason` has the figures it came from."""

    workers: int
    reason: str


class ScalingPolicy:
    """The load of one model on one kind of device in, the number of its workers out.

    Invariants:
      * `minimum <= target <= maximum`; nothing is added above `minimum + spare_threads`, except the first
        worker of a model that has none: a thread too many is better than a request that never ends;
      * up at once when the backlog takes longer than `BACKLOG_BATCHES` batch times and than a start;
      * up as well when there has been a queue behind busy workers for as long as a start takes: who starts
        then is at most twice as late as one who knew what would come. It holds where the queue is full, too,
        and cannot show how much is missing;
      * down when nothing is queued and nothing starts, to what was busy at once within the last `max_idle`
        seconds, and not within `max_idle` of going up;
      * after `decide`, what time alone changes is due at or after `next_look`.
    """

    def __init__(self, limits: ScalingLimits) -> None:
        self._limits = limits
        self.held_back: ScaleTo | None = None
        """Why the last decision added no worker though one was wanted."""
        self._busy = 0
        # Levels above the present one and when each was left: levels fall, times rise, from left to right.
        self._past: deque[tuple[int, float]] = deque()
        self._last_up: float | None = None
        self._standing_since: float | None = None
        self._standing_due: float | None = None
        self._down_not_before = 0.0
        self._have = 0

    @property
    def limits(self) -> ScalingLimits:
        """Fewest and most workers."""
        return self._limits

    def set_limits(self, limits: ScalingLimits) -> None:
        """Use other limits from the next decision on."""
        self._limits = limits

    # --- what happens ---------------------------------------------------------------------------

    def saw(self, busy: int, now: float) -> None:
        """So many workers are busy from now on; call it at each dispatch and each end of a batch."""
        if busy == self._busy:
            return
        level = max(busy, self._busy)
        while self._past and self._past[-1][0] <= level:
            self._past.pop()
        if busy < self._busy:
            self._past.append((self._busy, now))
        self._busy = busy

    # --- decisions ------------------------------------------------------------------------------

    def decide(self, load: ModelLoad, now: float) -> ScaleTo | None:
        """Return the number of workers that the model should have, None when it has it."""
        self.saw(load.busy, now)
        if self._last_up is None:
            self._last_up = now  # what was before is not known: nothing was idle for longer than that
        have = load.workers + load.starting
        self._follow(load, now)
        self.held_back = None
        choice = self._up(load, have, now)
        if choice is not None:
            self._last_up = now
            self._standing_since = None
        else:
            choice = self._down(load, have, now)
        self._have = have if choice is None else choice.workers
        self._plan_looks(load, choice, now)
        return choice

    def next_look(self, now: float) -> float | None:
        """Return when to decide if nothing happens before; None when only an event can make a difference."""
        looks = (self._standing_due, self._down_due(now))
        return min((max(now, due) for due in looks if due is not None), default=None)

    def _follow(self, load: ModelLoad, now: float) -> None:
        """Remember since when requests queue behind workers that are all busy.

        A short queue may be empty after each dispatch, so that ends when a worker is idle, not when nothing
        is queued. It begins again when a start has ended: what that one changes is not known before.
        """
        if load.busy < load.workers:
            self._standing_since = None
        elif load.queued and (self._standing_since is None or load.starting):
            self._standing_since = now

    def _up(self, load: ModelLoad, have: int, now: float) -> ScaleTo | None:
        choices: list[ScaleTo] = []
        if have < self._limits.minimum:
            choices.append(
                ScaleTo(self._limits.minimum, f"the floor is {self._limits.minimum}, {have} were there")
            )
        backlog = load.queued - max(0, load.workers - load.busy) * load.batch_size
        if backlog > 0:
            choices += self._for_backlog(load, have, backlog, now)
        wanted = max(choices, key=lambda choice: choice.workers, default=None)
        if wanted is None:
            return None
        most = self._most(load)
        target = min(wanted.workers, most)
        reason = wanted.reason
        if target < wanted.workers:
            is_own = most == self._limits.maximum
            limit = f"maxWorkers is {most}" if is_own else f"the CPU threads that are left allow {most}"
            reason = f"{reason}; {wanted.workers} wanted, {limit}"
        if target <= have:
            self.held_back = ScaleTo(have, reason) if wanted.workers > have else None
            return None
        return ScaleTo(target, reason)

    def _for_backlog(self, load: ModelLoad, have: int, backlog: int, now: float) -> list[ScaleTo]:
        """Return what each rule makes of requests that wait and that no idle worker takes."""
        start, batch = load.start_seconds or 0.0, load.batch_seconds
        since = now if self._standing_since is None else self._standing_since
        has_stood = now >= since + _patience(load)  # as `_standing_due` is worked out, rounding included
        for_all = ceil(backlog / (BACKLOG_BATCHES * load.batch_size))
        choices: list[ScaleTo] = []
        if have == 0:
            choices.append(ScaleTo(1, f"{load.queued} requests wait and no worker is there"))
        if batch is not None:
            seconds = backlog / load.batch_size * batch
            # Those that start now help only where the backlog is still there when they are up.
            batches = max(BACKLOG_BATCHES, start / max(batch, _SHORTEST))
            needed = ceil(backlog / (load.batch_size * batches))
            reason = (
                f"{backlog} requests wait for a worker, {seconds:.3g} s of work at {batch:.3g} s a batch of "
                f"{load.batch_size} for {have} workers; a start takes {start:.3g} s"
            )
            choices.append(ScaleTo(needed, reason))
        elif has_stood:
            choices.append(
                ScaleTo(for_all, f"{backlog} requests wait for a worker, more than {have} take soon")
            )
        if batch is not None and have and has_stood:
            # Those that are there just keep up with what arrives: the backlog needs workers of its own.
            reason = (
                f"{backlog} requests wait; all {load.workers} workers have been busy for {now - since:.3g} s"
            )
            choices.append(ScaleTo(have + min(have, for_all), reason))
        return choices

    def _most(self, load: ModelLoad) -> int:
        if load.spare_threads is None:
            return self._limits.maximum
        return min(self._limits.maximum, max(1, self._limits.minimum + max(0, load.spare_threads)))

    def _down(self, load: ModelLoad, have: int, now: float) -> ScaleTo | None:
        limits = self._limits
        if have > limits.maximum:  # the limits were changed; who drains finishes its batch
            return ScaleTo(limits.maximum, f"maxWorkers is {limits.maximum}, {have} were there")
        if load.queued or load.starting or self._last_up is None or now < self._last_up + limits.max_idle:
            return None
        busiest = self._busiest(now)
        if have <= max(limits.minimum, busiest):
            return None
        reason = f"at most {busiest} of {have} workers were busy at once in the last {limits.max_idle:.3g} s"
        return ScaleTo(max(limits.minimum, busiest), reason)

    def _busiest(self, now: float) -> int:
        """Return the most workers that were busy at once within the last `max_idle` seconds."""
        while self._past and now >= self._past[0][1] + self._limits.max_idle:
            self._past.popleft()
        return self._past[0][0] if self._past else self._busy

    # --- the next look --------------------------------------------------------------------------

    def _plan_looks(self, load: ModelLoad, choice: ScaleTo | None, now: float) -> None:
        """Set when time alone may change the answer that was just given."""
        self._standing_due = None
        if self._standing_since is not None and not load.starting and self._have < self._most(load):
            due = self._standing_since + _patience(load)
            self._standing_due = due if due > now else None  # an arrival is what is missing then
        is_held = choice is not None or load.queued > 0 or load.starting > 0
        # An event ends that, but the owner may report it by `saw` alone: look now and then.
        self._down_not_before = now + max(self._limits.max_idle, STANDING_SECONDS) if is_held else now

    def _down_due(self, now: float) -> float | None:
        if self._last_up is None or self._have <= self._limits.minimum:
            return None
        if self._have <= self._busy:  # the owner may say by `saw` alone that this is over: look now and then
            return now + max(self._limits.max_idle, STANDING_SECONDS)
        times = [at for busy, at in self._past if busy >= self._have]
        return max(self._down_not_before, max([self._last_up, *times]) + self._limits.max_idle)


def _patience(load: ModelLoad) -> float:
    """Return the seconds for which a queue behind busy workers may be a burst."""
    start = load.start_seconds or 0.0
    if load.batch_seconds is None:
        return start
    return max(start, STANDING_SECONDS, STANDING_BATCHES * load.batch_seconds)

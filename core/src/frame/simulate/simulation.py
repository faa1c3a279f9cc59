"""Play clients, workers and the clock for a model's policies, which decide all that is decided."""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random

from frame.policy.admission import why_refused
from frame.policy.blame import is_blamed
from frame.policy.conductor import Conductor, Sent
from frame.policy.recovery import Interrupted, why_not_again
from frame.policy.scaling import ScalingLimits
from frame.simulate.agenda import Agenda, Alarm
from frame.simulate.fleet import Fleet
from frame.simulate.outcome import Answered, Outcome
from frame.simulate.service import ServiceModel
from frame.simulate.settings import Settings
from frame.simulate.trace import Arrival, Trace
from frame.simulate.workers import Batch, Group, Job

TIMED_OUT = "no answer in time"
FAILED = "the model failed"
DIED = "the worker died twice with it, or it is not run again"
_REASONS = {"full": "queue full", "not ready": "not ready", "closing": "closing"}


class Simulation:
    """One run of one model.

    Invariants: a request ends once, by an answer or a refusal; the same settings, times, trace and seed give
        the same outcome.
    """

    def __init__(self, settings: Settings, service: ServiceModel, trace: Trace, seed: int = 1) -> None:
        self.outcome = Outcome()
        self._settings = settings
        self._service = service
        self._trace = trace
        self._random = Random(seed)  # noqa: S311  # a load
        self._agenda = Agenda()
        scaling = ScalingLimits(
            minimum=settings.minimum, maximum=settings.maximum, max_idle=settings.max_idle
        )
        self._policies: Conductor[Group, Job] = Conductor(settings.batching, scaling, settings.adaptive)
        self._waiting = self._policies.waiting
        self._fleet = Fleet(settings, service.load_seconds, self._agenda, self._policies, self)
        self._wake = Alarm(self._agenda, self.pump)
        self._overdue = Alarm(self._agenda, self._time_out)
        self._by_deadline: deque[Job] = deque()
        self._open = 0
        self._late = 0
        self._target: float | None = None
        self._next_job = 1
        self._next_batch = 1
        self._may_dispatch = True
        for at in trace.kills:
            self._agenda.add(at, self._kill)

    def run(self, *, target: float | None = None, may_miss: int = 0) -> Outcome:
        """Play the trace until every request has ended.

        Args:
            target: give up once more than `may_miss` requests were refused or took longer, in seconds.
        """
        self._target = target
        agenda, outcome = self._agenda, self.outcome
        self._fleet.start_floor()
        arrivals = iter(self._trace.arrivals)
        arrival = next(arrivals, None)
        while arrival is not None or self._open:
            if target is not None and self._late + outcome.refused > may_miss:
                break
            outcome.events += 1
            if arrival is None or agenda.next_at <= arrival.at:
                agenda.run_next()
                continue
            agenda.now = at = arrival.at
            while arrival is not None and arrival.at == at:  # what comes together may run together
                self._admit(arrival)
                arrival = next(arrivals, None)
            self._look_for_work()
        outcome.seconds = max(agenda.now, self._trace.seconds)
        outcome.scalings = list(self._policies.journal.scalings)
        outcome.choices = list(self._policies.journal.choices)
        return outcome

    # --- clients --------------------------------------------------------------------------------

    def _admit(self, arrival: Arrival) -> None:
        now = self._agenda.now
        refused = why_refused(
            status=self._fleet.status,
            is_closing=False,
            waiting=len(self._waiting) + self._fleet.jobs_ahead,
            queue_size=self._settings.queue_size,
        )
        if refused is not None:
            self.outcome.refusals[_REASONS[refused.reason]] += 1
            return
        deadline = now + self._settings.request_timeout
        job = Job(self._next_job, now, deadline, arrival.priority, arrival.hint)
        self._next_job += 1
        self._open += 1
        self._policies.add(job.key, job, now, priority=job.priority, hint=job.hint)
        self._by_deadline.append(job)
        if len(self._by_deadline) == 1:
            self._overdue.set(deadline)

    def _answer(self, job: Job) -> None:
        if not job.is_done:  # its time may have been over while it ran
            job.is_done = True
            self._open -= 1
            latency = self._agenda.now - job.arrived + self._service.overhead
            self.outcome.answers.append(Answered(job.arrived, latency))
            if self._target is not None and latency > self._target:
                self._late += 1

    def _refuse(self, job: Job, reason: str) -> None:
        job.is_done = True
        self._open -= 1
        self.outcome.refusals[reason] += 1

    def _time_out(self) -> None:
        """Refuse the jobs whose time is over; all have the same time, so they are in order."""
        jobs, now = self._by_deadline, self._agenda.now
        while jobs and (jobs[0].is_done or jobs[0].deadline <= now):
            job = jobs.popleft()
            if not job.is_done:
                if self._waiting.remove(job.key) and job.deaths:
                    self._may_dispatch = True  # a group may have been kept free for it
                self._refuse(job, TIMED_OUT)
        self._overdue.set(jobs[0].deadline if jobs else None)
        self._look_for_work()

    # --- batches --------------------------------------------------------------------------------

    def _look_for_work(self) -> None:
        if self._may_dispatch:
            self.pump()
        elif len(self._waiting):
            self._fleet.requests_wait()

    def pump(self) -> None:
        """Send all that is due, and wake up for what is not."""
        now, groups = self._agenda.now, self._fleet.runners
        while (sent := self._policies.next_order(now, groups)) is not None:
            self._send(sent)
        self._may_dispatch = self._waiting.waits_for_jobs(groups)
        self._wake.set(self._waiting.wake_at(now, groups))
        if len(self._waiting):
            self._fleet.requests_wait()

    def _send(self, sent: Sent[Group, Job]) -> None:
        order = sent.order
        batch = Batch(self._next_batch, order.jobs, sent.record, order.is_suspect)
        self._next_batch += 1
        order.runner.take(batch)
        self.outcome.batches[len(order.jobs)] += 1
        self.outcome.waiting.append((self._agenda.now, len(self._waiting)))
        if not order.is_ahead:
            self._start(order.runner, batch)

    def _start(self, group: Group, batch: Batch) -> None:
        batch.started = now = self._agenda.now
        seconds = self._service.draw(len(batch.jobs), self._random)
        if seconds > self._settings.predict_timeout:
            self._agenda.add(now + self._settings.predict_timeout, partial(self._hang, group, batch))
        else:
            self._agenda.add(now + seconds, partial(self._batch_done, group, batch))

    def _batch_done(self, group: Group, batch: Batch) -> None:
        if batch.is_cut:
            return
        assert batch.started is not None
        now = self._agenda.now
        group.drop(batch)
        group.has_answered = True
        for job in batch.jobs:
            self._answer(job)
        ahead = next((item for item in group.batches.values() if item.started is None), None)
        if ahead is not None:
            self._start(group, ahead)
        seconds = now - batch.started
        self.outcome.busy_seconds += seconds
        self._policies.batch_ended(batch.record, seconds, seconds, now, self._fleet.runners)
        self._fleet.answered(group)
        self._may_dispatch = True
        if len(self._waiting):
            self.pump()

    # --- deaths ---------------------------------------------------------------------------------

    def _kill(self) -> None:
        """Kill one of the processes that are up, whichever it is."""
        up = [group for group in self._fleet.runners if group.takes_work]
        if up:
            self._fleet.ended(self._random.choice(up), "died")

    def _hang(self, group: Group, batch: Batch) -> None:
        """End the group of a batch that takes longer than it may."""
        if not batch.is_cut:
            self._fleet.ended(group, "overdue", batch)

    def group_ended(self, group: Group, kind: str, hung: Batch | None) -> None:
        """Let each job of an ended group run again, or refuse it."""
        now = self._agenda.now
        for batch in reversed(group.batches.values()):
            batch.is_cut = True
            started = batch.started
            self.outcome.busy_seconds += now - started if started is not None else 0.0
            blamed = is_blamed(
                kind, has_started=started is not None, is_hung=batch is hung, any_hung=hung is not None
            )
            for job in reversed([job for job in batch.jobs if not job.is_done]):
                self._recover(job, is_blamed=blamed)
        self._may_dispatch = True
        self.pump()

    def _recover(self, job: Job, *, is_blamed: bool) -> None:
        job.deaths += is_blamed
        retries = self._settings.retries_on_crash
        interrupted = Interrupted(deaths=job.deaths, has_streamed=False, retries=retries, cause="")
        if why_not_again(interrupted) is not None:
            self._refuse(job, DIED)
        elif self._fleet.status == "FAILED":
            self._refuse(job, FAILED)
        elif job.deaths:
            self._waiting.suspect(job.key, job, job.arrived)
        else:
            self._waiting.put_back(job.key, job, job.arrived, priority=job.priority, hint=job.hint)

    def model_failed(self) -> None:
        """Refuse all that waits."""
        for job in list(self._waiting):
            self._waiting.remove(job.key)
            self._refuse(job, FAILED)

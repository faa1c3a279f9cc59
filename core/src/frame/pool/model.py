"""One model version: its queue, its worker groups, and what becomes of jobs when a group ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Literal

from frame.errors import CapacityError, ModelNotReadyError
from frame.policy.admission import why_refused
from frame.policy.conductor import Conductor, Sent
from frame.policy.quarantine import Quarantine
from frame.policy.records import Journal
from frame.policy.service_times import ServiceTimes
from frame.policy.wording import without_places
from frame.pool.answers import take_answers
from frame.pool.batches import Batch
from frame.pool.deadlines import Deadlines
from frame.pool.deaths import GroupEnd
from frame.pool.group import WorkerGroup
from frame.pool.hints import HintMaker
from frame.pool.jobs import Answer, Job
from frame.pool.metrics import ModelMetrics
from frame.pool.open_jobs import OpenJobs
from frame.pool.placer import Resources, Unlimited
from frame.pool.plan import ModelPlan
from frame.pool.recovery import recover_batch
from frame.pool.request_log import RequestLog
from frame.pool.staffing import Staffing, scaling_limits
from frame.pool.supervisor import Clock, MakeGroup, Prepare, Supervisor
from frame.wire.frames import Frame

_log = logging.getLogger(__name__)
_LAST_LINES, _LINE_LENGTH = 3, 200
"""What of a failed worker's log a client gets; operators find more in `GET /models/{model}`."""


class ModelPool:
    """Queue and worker groups of one model version; all methods run on the loop's thread.

    Invariants:
      * an admitted job ends once: with an answer, with an error, or cancelled by its client;
      * a job is in the queue, among the suspects, or in exactly one group's batch;
      * a job that was in a dying group is run again alone in an otherwise idle group; a second death ends it
        (503);
    """

    def __init__(
        self,
        plan: ModelPlan,
        prepare: Prepare,
        make_group: MakeGroup = WorkerGroup,
        clock: Clock = monotonic,
        resources: Resources | None = None,
    ) -> None:
        self.metrics = ModelMetrics()
        self.status: Literal["PENDING", "READY", "FAILED"] = "PENDING"
        self.reason: str | None = None
        self.last_lines: tuple[str, ...] = ()
        """The last that a worker wrote because of which the model is FAILED, for clients."""
        self.settled = asyncio.Event()
        """Set once the floor of workers is up, a start has failed, or the model is closed."""
        self.ended = asyncio.Event()
        """Set once closed and every worker is gone."""
        self.last_used = clock()
        self.copy_bytes = 0
        """Memory of the process that was loaded last."""
        self.quarantine = Quarantine(plan.config.quarantine_time)
        self._hints = HintMaker(plan.group.padding, has_budget=plan.batching.max_cost is not None)
        self.clock = clock
        self._policies: Conductor[WorkerGroup, Job] = Conductor(
            plan.batching, scaling_limits(plan), plan.adaptive
        )
        self._waiting = self._policies.waiting
        resources = resources or Unlimited()
        self._supervisor = Supervisor(
            plan,
            self,
            staffing=Staffing(self._policies, self.metrics, resources, clock),
            prepare=prepare,
            make_group=make_group,
            clock=clock,
            resources=resources,
        )
        request_log = RequestLog(plan.name, plan.log_every) if plan.log_every else None
        self.open_jobs = OpenJobs(self.metrics, request_log, clock)
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._pump_asked = False
        self._may_dispatch = False
        self._due_timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(clock, self._check_deadlines)

    @property
    def plan(self) -> ModelPlan:
        """The plan, with the interpreter of the model's own environment once that is made."""
        return self._supervisor.plan

    def change_plan(self, plan: ModelPlan) -> None:
        """Have other limits and numbers of workers from now on."""
        self._policies.change(plan.batching, scaling_limits(plan))
        self._supervisor.change_plan(plan)
        self._ask_pump()

    @property
    def groups(self) -> dict[int, WorkerGroup]:
        """The worker groups by key."""
        return self._supervisor.groups

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines of the group that ended last."""
        return self._supervisor.log_tail

    @property
    def journal(self) -> Journal:
        """What was decided last, and why."""
        return self._policies.journal

    @property
    def times(self) -> ServiceTimes:
        """What was measured of batches and arrivals."""
        return self._policies.times

    @property
    def leases(self) -> int:
        """Requests between admission and answer."""
        return len(self.open_jobs)

    @property
    def busy_workers(self) -> int:
        """Workers that run a batch."""
        return sum(min(group.sent, group.slots) for group in self.groups.values())

    @property
    def is_closing(self) -> bool:
        """Whether no more requests are taken, for good."""
        return self._is_closing

    @property
    def is_asleep(self) -> bool:
        """Whether workers are started by the next request and not before."""
        return self._supervisor.is_asleep

    # --- admission ----------------------------------------------------------------------------

    @property
    def queue_length(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._waiting) + sum(item.jobs_ahead for item in self.groups.values())

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ModelNotReadyError: it has not loaded, has failed, or is ending.
            CapacityError: the queue is full.
        """
        self._check_admission(self.queue_length)
        job.hint = self._hints.hint(job)
        self.open_jobs.add(job)
        self._policies.add(job.id, job, job.arrived, priority=job.priority, hint=job.hint)
        if self._may_dispatch:
            self._ask_pump()
        else:
            self._supervisor.requests_wait()
        self._deadlines.at(job.deadline)

    def check_ready(self) -> None:
        """Raise `ModelNotReadyError` unless requests are taken."""
        self._check_admission(waiting=0)

    def _check_admission(self, waiting: int) -> None:
        refused = why_refused(
            status=self.status, is_closing=self._is_closing, waiting=waiting, queue_size=self.plan.queue_size
        )
        if refused is None:
            return
        if refused.reason == "full":
            raise CapacityError(f"Worker queue capacity exceeded for model: {self.plan.name}")
        if refused.reason == "closing":
            raise ModelNotReadyError(f"Model is shutting down: {self.plan.name}")
        detail = f": {self._why_failed}" if self.reason else ""
        raise ModelNotReadyError(f"Model is not ready: {self.plan.name}{detail}")

    @property
    def _why_failed(self) -> str:
        written = f"; it wrote last: {' | '.join(self.last_lines)}" if self.last_lines else ""
        return f"{self.reason}{written}"

    def cancel(self, job: Job) -> None:
        """Drop a job whose client went away: out of the queue, or its worker is told."""
        if self.open_jobs.cancel(job):
            self._drop(job)
            job.close()

    # --- dispatch -----------------------------------------------------------------------------

    def _ask_pump(self) -> None:
        """Look for work to send at the end of this turn of the loop: what arrives together runs together."""
        self._may_dispatch = True
        if not self._pump_asked:
            self._pump_asked = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send all that is due, then set the timer for what is not."""
        self._pump_asked = False
        now = self.clock()
        groups = self.groups.values()
        while (sent := self._policies.next_order(now, groups)) is not None:
            self._send(sent, now)
        self._may_dispatch = self._waiting.waits_for_jobs(groups)
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        due = self._waiting.wake_at(now, groups)
        if due is not None:
            self._due_timer = self._loop.call_at(due, self._ask_pump)
        if len(self._waiting):
            self._supervisor.requests_wait()

    def _send(self, sent: Sent[WorkerGroup, Job], now: float) -> None:
        order, jobs = sent.order, self._in_time(sent, now)
        if not jobs:
            return
        self.metrics.batch_size.observe(len(jobs))
        batch = order.runner.send(jobs, is_suspect=order.is_suspect)
        batch.record = sent.record
        if not order.is_ahead or batch in order.runner.taken:
            self._start(order.runner, batch, now)

    def _in_time(self, sent: Sent[WorkerGroup, Job], now: float) -> list[Job]:
        """Return the jobs of an order but for those whose time is over: they are answered here."""
        jobs = [job for job in sent.order.jobs if job.deadline > now]
        if len(jobs) < len(sent.order.jobs):
            sent.record.size = len(jobs)
            if not jobs:
                self.journal.batches.pop()  # the record of this order: there is no batch
            for job in sent.order.jobs:
                if job.deadline <= now:
                    self._time_out(job)
        return jobs

    def _start(self, group: WorkerGroup, batch: Batch, now: float) -> None:
        group.start(batch, now)
        self._deadlines.at(batch.deadline)
        for job in batch.jobs.values():
            self.metrics.queue_wait.observe(now - job.arrived)

    # --- deadlines ----------------------------------------------------------------------------

    def _check_deadlines(self, now: float) -> Iterator[float]:
        """Answer jobs whose time is over, end groups whose batch hangs; yield the deadlines that are left."""
        for job in list(self.open_jobs):
            if job.deadline <= now and job.stream is None:
                self._time_out(job)
                self._drop(job)
        for group in self.groups.values():
            group.end_if_hung(now)
        yield from (job.deadline for job in self.open_jobs if job.stream is None)
        for group in self.groups.values():
            running = (batch for batch in group.batches.values() if batch.has_started)
            yield from (batch.deadline for batch in running if batch.id not in group.hung_batches)

    def _time_out(self, job: Job) -> None:
        """Answer a job whose time is over."""
        where = "in a worker" if job.group_key else "in the queue"
        message = f"no answer within {job.deadline - job.arrived:g} s ({job.limited_by}); it was {where}"
        self.open_jobs.finish(job, Answer(status=503, type_name="PredictTimeoutError", message=message))

    def give_up(self, job: Job) -> None:
        """Treat the batch of a stream that stalled as a hang: its worker is replaced."""
        group = self.groups.get(job.group_key)
        if group is not None and job.batch in group.batches:
            group.batches[job.batch].deadline = self.clock()
            self._deadlines.check()

    def _drop(self, job: Job) -> None:
        """Forget a job that was answered while it waits or runs."""
        if self._waiting.remove(job.id) and job.deaths:
            self._ask_pump()  # a group may have been kept free for it
        if (group := self.groups.get(job.group_key)) is not None:
            group.cancel(job)

    # --- answers ------------------------------------------------------------------------------

    def batch_done(self, group: WorkerGroup, batch: Batch, compute: float = 0.0) -> None:
        """A slot is free again; the model took `compute` seconds of the batch's time."""
        now = self.last_used = self.clock()
        ahead = group.batch_ended(batch)
        if ahead is not None:
            self._start(group, ahead, now)
        if batch.record is not None:
            self._policies.batch_ended(batch.record, now - batch.started, compute, now, self.groups.values())
        self._supervisor.answered(group)
        self._may_dispatch = True
        if self.queue_length:
            self._pump()  # at once: what waits has waited for this slot; later costs it a turn of the loop

    # --- groups -------------------------------------------------------------------------------

    def group_loaded(self, group: WorkerGroup) -> None:
        """Take batches to a group that has just loaded."""
        seconds = self._supervisor.loaded(group)
        facts = f"pid={group.pid} slots={group.capacity or group.slots} seconds={seconds:.2f}"
        _log.info("worker_ready model=%s group=%d %s", self.plan.name, group.key, facts)
        self.metrics.load.observe(seconds)
        self.status, self.reason = "READY", None
        self.copy_bytes = group.rss_bytes
        self._hints.learn(group.signature)
        self._ask_pump()

    def group_resized(self, group: WorkerGroup) -> None:
        """Use the slots that a group has now."""
        now = self.clock()
        for batch in group.taken:
            self._start(group, batch, now)
        self._supervisor.look_again()
        self._ask_pump()

    def group_frame(self, group: WorkerGroup, frame: Frame, mapped: list[memoryview]) -> None:
        """Take answers, chunks and ends."""
        take_answers(self, group, frame, mapped)

    async def run(self) -> None:
        """Keep the floor of workers until closed; returns when every group is gone."""
        try:
            await self._supervisor.run()
        finally:
            self.settled.set()  # nobody waits for it any more
            self.ended.set()

    def floor_reached(self) -> None:
        """Take requests: the floor of workers is up, as far as it can be, or the first request starts it."""
        if self.status == "PENDING":
            self.status = "READY"
        self.settled.set()

    def may_try_again(self) -> None:
        """Let the next request start a worker."""
        self.status, self.reason = "READY", None

    async def unload(self) -> None:
        """End the workers of an idle model, until the next request, and return when they are gone."""
        await self._supervisor.unload()

    def group_ended(self, group: WorkerGroup, end: GroupEnd) -> None:
        """Decide what becomes of the jobs that the group was running."""
        if end.kind != "drained":
            self.metrics.count_restart(end.kind)
            jobs = sum(len(batch.jobs) for batch in group.batches.values())
            self._policies.group_died(self.clock(), end.kind, end.cause, jobs)
        for batch in reversed(group.batches.values()):
            recover_batch(self, group, batch, end)
        self._ask_pump()

    def model_failed(self, cause: str, log: Sequence[str]) -> None:
        """Mark the model FAILED and answer all that waits."""
        _log.error("model_failed model=%s cause=%s", self.plan.name, cause)
        cause = without_places(cause)  # the log has it whole; this goes to clients
        self.status, self.reason = "FAILED", cause
        self.last_lines = tuple(without_places(line)[:_LINE_LENGTH] for line in log[-_LAST_LINES:])
        self.settled.set()
        message = f"Model is not ready: {self.plan.name}: {self._why_failed}"
        waiting = [job for job in self.open_jobs if not job.group_key]
        for job in waiting:
            self._waiting.remove(job.id)
            self.open_jobs.finish(job, Answer(status=503, type_name="ModelNotReadyError", message=message))

    def wait_again(self, job: Job) -> None:
        """Queue a job of an ended group: among the suspects if it may be the cause, else in front."""
        if job.deaths:
            self._waiting.suspect(job.id, job, job.arrived)
        else:
            self._waiting.put_back(job.id, job, job.arrived, priority=job.priority, hint=job.hint)

    async def close(self, timeout: float) -> None:  # the wait is on several things
        """Take no more requests, finish those that are here within `timeout` seconds, end the groups."""
        deadline = self.clock() + timeout
        self._is_closing = True
        self._waiting.close()
        self._ask_pump()
        await self.open_jobs.wait_until_none(timeout)  # without a group, too: the next one may be on its way
        for group in self.groups.values():
            if self.open_jobs and group.batches:
                group.kill("drained", "drained; what ran was cut")
        for job in list(self.open_jobs):
            self._drop(job)
            message = f"Model is shutting down: {self.plan.name}"
            if job.stream is None:
                self.open_jobs.finish(
                    job, Answer(status=503, type_name="ModelNotReadyError", message=message)
                )
            else:
                job.stream.end(message)
                self.open_jobs.end_stream(job, is_broken=True)
        self._supervisor.close(max(0.0, deadline - self.clock()))

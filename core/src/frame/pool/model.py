"""One model version: its queue, its worker groups, and what becomes of jobs when a group ends."""

from __future__ import annotations

import asyncio
import logging
import math
from time import monotonic
from typing import Literal

from frame.errors import CapacityError, ModelNotReadyError
from frame.policy.dispatch import Dispatcher, Order
from frame.policy.quarantine import Quarantine
from frame.policy.recovery import POISONOUS_DEATHS, Interrupted, why_not_again
from frame.policy.wording import without_places
from frame.pool.answers import take_answers
from frame.pool.group import Batch, GroupEnd, WorkerGroup
from frame.pool.jobs import Answer, Job
from frame.pool.metrics import ModelMetrics, outcome_of
from frame.pool.plan import ModelPlan
from frame.pool.quarantine import hold
from frame.pool.request_log import RequestLog
from frame.pool.supervisor import Clock, MakeGroup, Prepare, Supervisor
from frame.wire.frames import Frame

_log = logging.getLogger(__name__)
_CHECK_INTERVAL = 0.05
"""Seconds between two looks at the deadlines: each one goes over all jobs."""


class ModelPool:
    """Queue and worker groups of one model version; all methods run on the loop's thread.

    Invariants:
      * an admitted job ends once: with an answer, with an error, or cancelled by its client;
      * a job is in the queue, among the suspects, or in exactly one group's batch;
      * a job that was in a dying group is run again alone in an otherwise idle group; a second death ends it
        (503);
    """

    def __init__(
        self, plan: ModelPlan, prepare: Prepare, make_group: MakeGroup = WorkerGroup, clock: Clock = monotonic
    ) -> None:
        self.metrics = ModelMetrics()
        self.status: Literal["PENDING", "READY", "FAILED"] = "PENDING"
        self.reason: str | None = None
        self.settled = asyncio.Event()
        """Set once the first start has succeeded or failed."""
        self.quarantine = Quarantine(plan.config.quarantine_time)
        self._clock = clock
        self._supervisor = Supervisor(plan, self, prepare=prepare, make_group=make_group, clock=clock)
        self._request_log = RequestLog(plan.name, plan.log_every) if plan.log_every else None
        self._waiting: Dispatcher[WorkerGroup, Job] = Dispatcher(plan.batching)
        self._jobs: dict[int, Job] = {}
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._pump_asked = False
        self._may_dispatch = False
        self._due_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline_check = math.inf
        self._no_check_before = 0.0
        self._idle: asyncio.Future[None] | None = None

    @property
    def plan(self) -> ModelPlan:
        """The plan, with the interpreter of the model's own environment once that is made."""
        return self._supervisor.plan

    @property
    def groups(self) -> dict[int, WorkerGroup]:
        """The worker groups by key."""
        return self._supervisor.groups

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines of the group that ended last."""
        return self._supervisor.log_tail

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
        self.check_ready()
        if self.queue_length >= self.plan.queue_size:
            raise CapacityError(f"Worker queue capacity exceeded for model: {self.plan.name}")
        self._jobs[job.id] = job
        self._waiting.add(job.id, job, job.arrived, priority=job.priority, hint=job.hint)
        if self._may_dispatch:
            self._ask_pump()
        self._check_deadlines_at(job.deadline)

    def check_ready(self) -> None:
        """Raise `ModelNotReadyError` unless requests are taken."""
        if self._is_closing:
            raise ModelNotReadyError(f"Model is shutting down: {self.plan.name}")
        if self.status != "READY":
            detail = f": {self.reason}" if self.reason else ""
            raise ModelNotReadyError(f"Model is not ready: {self.plan.name}{detail}")

    def cancel(self, job: Job) -> None:
        """Drop a job whose client went away: out of the queue, or its worker is told."""
        if not self._forget(job):
            return
        self._drop(job)
        self.metrics.count_request("cancelled", self._clock() - job.arrived)
        job.close()

    def _forget(self, job: Job) -> bool:
        """Drop a job from the table of those that somebody waits for; False when it is not in it."""
        if self._jobs.pop(job.id, None) is None:
            return False
        if not self._jobs and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return True

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
        now = self._clock()
        groups = self.groups.values()
        while (order := self._waiting.next_order(now, groups)) is not None:
            self._send(order, now)
        self._may_dispatch = self._waiting.waits_for_jobs(groups)
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        due = self._waiting.wake_at(now, groups)
        if due is not None:
            self._due_timer = self._loop.call_at(due, self._ask_pump)

    def _send(self, order: Order[WorkerGroup, Job], now: float) -> None:
        jobs = [job for job in order.jobs if job.deadline > now]
        if len(jobs) < len(order.jobs):
            for job in order.jobs:
                if job.deadline <= now:
                    self._time_out(job)
            if not jobs:
                return
        self.metrics.batch_size.observe(len(jobs))
        batch = order.runner.send(jobs, is_suspect=order.is_suspect)
        if not order.is_ahead:
            self._start(order.runner, batch, now)

    def _start(self, group: WorkerGroup, batch: Batch, now: float) -> None:
        group.start(batch, now)
        self._check_deadlines_at(batch.deadline)
        for job in batch.jobs.values():
            self.metrics.queue_wait.observe(now - job.arrived)

    # --- deadlines ----------------------------------------------------------------------------

    def _check_deadlines_at(self, deadline: float) -> None:
        """Look at the deadlines when this one is over, or earlier."""
        at = max(deadline, self._no_check_before)
        if at < self._deadline_check:
            if self._deadline_timer is not None:
                self._deadline_timer.cancel()
            self._deadline_check = at
            self._deadline_timer = self._loop.call_at(at, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """Answer jobs whose time is over, end groups whose batch hangs; look again at the next deadline."""
        now = self._clock()
        self._no_check_before = now + _CHECK_INTERVAL
        for job in list(self._jobs.values()):
            if job.deadline <= now and job.stream is None:
                self._time_out(job)
                self._drop(job)
        for group in self.groups.values():
            group.end_if_hung(now)
        deadlines = [job.deadline for job in self._jobs.values() if job.stream is None]
        batches = (batch for group in self.groups.values() for batch in group.batches.values())
        deadlines += [batch.deadline for batch in batches if batch.has_started]
        self._deadline_check = math.inf
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if deadlines:
            self._check_deadlines_at(min(deadlines))

    def _time_out(self, job: Job) -> None:
        """Answer a job whose time is over."""
        where = "in a worker" if job.group_key else "in the queue"
        message = f"no answer within {job.deadline - job.arrived:g} s ({job.limited_by}); it was {where}"
        self.finish(job, Answer(status=503, type_name="PredictTimeoutError", message=message))

    def give_up(self, job: Job) -> None:
        """Treat the batch of a stream that stalled as a hang: its worker is replaced."""
        group = self.groups.get(job.group_key)
        if group is not None and job.batch in group.batches:
            group.batches[job.batch].deadline = self._clock()
            self._check_deadlines()

    def _drop(self, job: Job) -> None:
        """Forget a job that was answered while it waits or runs."""
        if self._waiting.remove(job.id) and job.deaths:
            self._ask_pump()  # a group may have been kept free for it
        if (group := self.groups.get(job.group_key)) is not None:
            group.cancel(job)

    # --- answers ------------------------------------------------------------------------------

    def finish(self, job: Job, answer: Answer) -> None:
        """Give a job its answer; the first one counts."""
        if not self._forget(job):
            return
        if not job.answer.done():
            job.answer.set_result(answer)
        total = self._clock() - job.arrived
        self.metrics.count_request(outcome_of(answer.status), total)
        if self._request_log is not None and job.dispatched:
            self._request_log.add(queue=job.dispatched - job.arrived, inference=job.inference, total=total)
        job.close()

    def begin_stream(self, job: Job, answer: Answer) -> None:
        """Give a job an answer whose body is still coming."""
        job.stream = answer.stream
        if not job.answer.done():
            job.answer.set_result(answer)

    def is_waiting(self, job: Job) -> bool:
        """Tell whether somebody still waits for this job."""
        return job.id in self._jobs

    def batch_done(self, group: WorkerGroup, batch: Batch) -> None:
        """A slot is free again."""
        ahead = group.batch_ended(batch)
        if ahead is not None:
            self._start(group, ahead, self._clock())
        self._supervisor.answered()
        self._may_dispatch = True
        if self.queue_length:
            self._pump()  # at once: what waits has waited for this slot; later costs it a turn of the loop

    # --- groups -------------------------------------------------------------------------------

    def group_loaded(self, group: WorkerGroup) -> None:
        """Take batches to a group that has just loaded."""
        seconds = sum(group.seconds.values())
        facts = f"pid={group.pid} slots={group.capacity or group.slots} seconds={seconds:.2f}"
        _log.info("worker_ready model=%s group=%d %s", self.plan.name, group.key, facts)
        self.metrics.load.observe(seconds)
        self.status, self.reason = "READY", None
        self.settled.set()
        self._supervisor.look_again()
        self._ask_pump()

    def group_frame(self, group: WorkerGroup, frame: Frame, mapped: list[memoryview]) -> None:
        """Take answers, chunks and ends."""
        take_answers(self, group, frame, mapped)

    async def run(self) -> None:
        """Keep the floor of workers until closed; returns when every group is gone."""
        await self._supervisor.run()

    def group_ended(self, group: WorkerGroup, end: GroupEnd) -> None:
        """Decide what becomes of the jobs that the group was running."""
        if end.kind != "drained":
            self.metrics.count_restart(end.kind)
        for batch in reversed(group.batches.values()):
            self._recover_batch(group, batch, end)
        self._ask_pump()

    def model_failed(self, cause: str) -> None:
        """Mark the model FAILED and answer all that waits."""
        _log.error("model_failed model=%s cause=%s", self.plan.name, cause)
        cause = without_places(cause)  # the log has it whole; this goes to clients
        self.status, self.reason = "FAILED", cause
        self.settled.set()
        message = f"Model is not ready: {self.plan.name}: {cause}"
        waiting = [job for job in self._jobs.values() if not job.group_key]
        for job in waiting:
            self._waiting.remove(job.id)
            self.finish(job, Answer(status=503, type_name="ModelNotReadyError", message=message))

    def _recover_batch(self, group: WorkerGroup, batch: Batch, end: GroupEnd) -> None:
        """Decide for each unfinished job of a group that ended: run again, or answer why not."""
        is_blamed = end.kind != "drained" and batch.has_started
        if group.hung_batches and batch.id not in group.hung_batches:
            is_blamed = False
        for job in reversed([job for job in batch.jobs.values() if self.is_waiting(job)]):
            job.group_key = 0
            job.deaths += is_blamed
            reason = why_not_again(
                Interrupted(
                    deaths=job.deaths,
                    has_streamed=job.stream is not None,
                    retries=self.plan.group.retry_on_crash,
                    cause=end.cause,
                )
            )
            if reason is None and self.status != "FAILED":
                self._wait_again(job)
            elif job.stream is not None:
                job.stream.end(f"the worker ended: {end.cause}")
                self.end_stream(job, is_broken=True)
            else:
                if job.deaths >= POISONOUS_DEATHS:
                    hold(self.quarantine, job, self.plan.name, self._clock)
                message = reason or f"Model is not ready: {self.plan.name}: {end.cause}"
                self.finish(job, Answer(status=503, type_name="WorkerDiedError", message=message))

    def _wait_again(self, job: Job) -> None:
        """Queue a job of an ended group: among the suspects if it may be the cause, else in front."""
        if job.deaths:
            self._waiting.suspect(job.id, job, job.arrived)
        else:
            self._waiting.put_back(job.id, job, job.arrived, priority=job.priority, hint=job.hint)

    def end_stream(self, job: Job, *, is_broken: bool = False) -> None:
        """Count a job whose stream ended and forget it."""
        if self._forget(job):
            outcome = "cancelled" if job.answer.cancelled() else outcome_of(job.answer.result().status)
            self.metrics.count_request("server_error" if is_broken else outcome, self._clock() - job.arrived)
            job.close()

    async def close(self, timeout: float) -> None:  # the wait is on several things
        """Take no more requests, finish those that are here within `timeout` seconds, end the groups."""
        deadline = self._clock() + timeout
        self._is_closing = True
        self._waiting.close()
        self._ask_pump()
        if self._jobs and self.groups:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=timeout)
        for group in self.groups.values():
            if self._jobs and group.batches:
                group.kill("drained", "drained; what ran was cut")
        for job in list(self._jobs.values()):
            self._drop(job)
            message = "the server is shutting down"
            if job.stream is None:
                self.finish(job, Answer(status=503, type_name="ModelNotReadyError", message=message))
            else:
                job.stream.end(message)
                self.end_stream(job, is_broken=True)
        self._supervisor.close(max(0.0, deadline - self._clock()))

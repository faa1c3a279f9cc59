"""A model's pool with made-up time and worker groups without processes; their wire is the real one."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from frame.policy.lifecycle import GroupEvent, GroupState, next_state
from frame.pool.deaths import GroupEnd
from frame.pool.group import WorkerGroup
from frame.pool.jobs import Answer, Job
from frame.pool.listeners import GroupListener
from frame.pool.model import ModelPool
from frame.pool.payload import Payload
from frame.pool.placer import Resources
from frame.pool.plan import ModelPlan
from frame.pool.settings import GroupSettings, Placement
from frame.testing import FakeClock
from frame.wire.frames import Frame, FrameDecoder
from frame.wire.messages import (
    INITIAL_CREDITS,
    AnswerHead,
    AnswersHead,
    BatchEnd,
    ChunkHead,
    EndHead,
    Kind,
    LoadedHead,
    SlotsReadyHead,
    to_json,
)


class TimedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only in `advance`, from timer to timer, without waiting."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.errors: list[dict[str, Any]] = []
        self._selector_of_time = _TimedSelector(self)
        super().__init__(self._selector_of_time)
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Return the made-up time."""
        return self.clock.now

    def settle(self) -> None:
        """Run what can run now."""
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Let time pass and run what becomes due, each at its time."""
        self._selector_of_time.until = self.clock.now + seconds
        self.run_forever()
        assert self.errors == [], self.errors


class _TimedSelector(selectors.SelectSelector):
    """Moves the clock instead of waiting; stops the loop when nothing is due before `until`."""

    def __init__(self, loop: TimedLoop) -> None:
        super().__init__()
        self.loop = loop
        self.until = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or timeout == 0:
            return found
        clock = self.loop.clock
        if timeout is not None and clock.now + timeout <= self.until:
            clock.advance(timeout)
        else:
            clock.advance(max(0.0, self.until - clock.now))
            self.loop.stop()
        return []


class FakeChannel:
    """The socket of a group: what is sent is decoded at once, as the worker would."""

    def __init__(self, take: Callable[[Kind, dict[str, Any], bytes], None]) -> None:
        self._decoder = FrameDecoder()
        self._take = take
        self.is_open = True

    def send(self, segments: Sequence[bytes], descriptors: Sequence[int] = ()) -> None:
        if self.is_open:
            for frame in self._decoder.feed(b"".join(segments)):
                assert frame.fd_count == len(descriptors)
                self._take(Kind(frame.kind), json.loads(frame.head), bytes(frame.body))

    def close(self) -> None:
        self.is_open = False


class FakeGroup(WorkerGroup):
    """A group whose worker is played by the test: all but the process, its socket and its start is real.

    Attributes:
        runs: unfinished jobs of each unfinished batch, in the order in which the worker got them.
        credits: chunks that each job's stream may still send.
        bodies: what the worker was sent for each job.
        resizes: the changes of slots that the worker was asked for, by number.
        is_stopped: its process does not answer pings.
    """

    def __init__(self, settings: GroupSettings, placement: Placement, listener: GroupListener) -> None:
        super().__init__(settings, placement, listener)
        self._channel: Any = FakeChannel(self._receive)
        self._ended: asyncio.Future[GroupEnd] = asyncio.get_running_loop().create_future()
        self.runs: dict[int, list[int]] = {}
        self.credits: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.streaming: set[int] = set()
        self.bodies: dict[int, bytes] = {}
        self.resizes: dict[int, int] = {}
        self.is_stopped = False
        self.on_run: Callable[[FakeGroup, list[int]], None] = lambda group, jobs: None

    async def run(self) -> GroupEnd:
        """Live until the test says that the process is gone."""
        try:
            return await self._ended
        finally:
            self.state = next_state(self.state, GroupEvent.ENDED)
            self._heartbeat.stop()
            self._channel.close()

    # --- what the test makes the worker do ----------------------------------------------------

    def load(self, *, slots: int | None = None, capacity: int = 0, concurrency: int = 0) -> None:
        """Let the model load; its copy allows `concurrency` slots, by default those that it has."""
        slots = slots or self.requested_slots
        self._take_loaded(LoadedHead(slots=slots, concurrency=max(slots, concurrency), capacity=capacity))

    def report_slots(self, slots: int, *, wanted: int | None = None, error: str = "") -> None:
        """Let the worker say how many slots it has after the last change that it was asked for."""
        change = max(self.resizes, default=0)
        wanted = self.resizes.get(change, slots) if wanted is None else wanted
        self._tell(Kind.SLOTS_READY, SlotsReadyHead(change=change, slots=slots, wanted=wanted, error=error))

    def pong(self) -> None:
        """Let the worker answer a ping."""
        self._tell(Kind.PONG, {})

    def disconnect(self) -> None:
        """Let the worker die: its socket closes; the process is still to be reaped."""
        if not self._closed.done():
            self._channel.close()
            self._take_closed("the worker closed its socket")

    def reap(self, kind: str = "died", cause: str = "killed by SIGKILL") -> GroupEnd:
        """Let the process be gone; what was asked of the group explains its end, as in `WorkerGroup`."""
        self.disconnect()
        if self._verdict is not None:
            end = self._verdict
        elif self.drain_was_asked:
            end = GroupEnd(kind="drained", cause="drained", has_answered=self.has_answered)
        else:
            end = GroupEnd(kind=kind, cause=cause, has_answered=self.has_answered)
        if not self._ended.done():
            self._ended.set_result(end)
        return end

    @property
    def drain_was_asked(self) -> bool:
        return self._drain_asked.done()

    @property
    def was_killed(self) -> bool:
        return self._verdict is not None

    @property
    def is_connected(self) -> bool:
        return not self._closed.done() and self.slots > 0

    def running(self) -> list[int]:
        """Return the batches that slots run; those behind them wait in the worker."""
        return list(self.runs)[: self.capacity or self.slots]

    def answer(self, batch: int, answers: Mapping[int, bytes], *, is_end: bool, status: int = 200) -> None:
        """Answer jobs of a batch, the last ones with the batch's end."""
        heads, bodies = [], []
        for job, body in answers.items():
            head = AnswerHead(id=job, status=status, message="", parts=[("data", len(body), -1)])
            heads.append(head)
            bodies.append(body)
            self.runs[batch].remove(job)
        if is_end:
            del self.runs[batch]
        end = BatchEnd(compute=0.5) if is_end else None
        self._tell(Kind.ANSWERS, AnswersHead(batch=batch, jobs=heads, end=end), b"".join(bodies))

    def begin_stream(self, job: int, first: bytes, *, status: int = 200, type_name: str = "") -> None:
        parts = [("data", len(first), -1)] if first else []
        self.streaming.add(job)
        self.credits[job] -= 1
        head = AnswerHead(id=job, status=status, message="", type_name=type_name, parts=parts)
        self._tell(Kind.STREAM, head, first)

    def chunk(self, job: int, data: bytes) -> None:
        assert self.credits[job] > 0
        self.credits[job] -= 1
        self._tell(Kind.CHUNK, ChunkHead(job), data)

    def end_stream(self, job: int, error: str = "") -> None:
        """End a job's stream; when it was the last job of its batch, the batch ends right behind it."""
        batch = next(batch for batch, jobs in self.runs.items() if job in jobs)
        self.runs[batch].remove(job)
        is_last = all(other in self.cancelled for other in self.runs[batch])
        if is_last:
            del self.runs[batch]
        self._tell(Kind.END, EndHead(job, error))
        if is_last and not self.capacity:
            self._tell(Kind.ANSWERS, AnswersHead(batch=batch, jobs=[], end=BatchEnd()))

    def _tell(self, kind: Kind, head: object, body: bytes = b"") -> None:
        encoded = json.dumps(head, default=to_json).encode()
        self._take_frame(Frame(kind, encoded, memoryview(body), 0), [])

    # --- what the router makes the worker do --------------------------------------------------

    def _receive(self, kind: Kind, head: dict[str, Any], body: bytes) -> None:
        if kind is Kind.RUN:
            jobs = [job["id"] for job in head["jobs"]]
            self.runs[head["batch"]] = jobs
            for job in head["jobs"]:
                size = sum(part[1] for part in job["parts"])
                self.bodies[job["id"]], body = body[:size], body[size:]
                self.credits[job["id"]] = INITIAL_CREDITS
            self.on_run(self, list(jobs))
        elif kind is Kind.CREDIT:
            self.credits[head["job"]] += head["count"]
        elif kind is Kind.CANCEL:
            self.cancelled.update(head["jobs"])
            assert head["jobs"]
        elif kind is Kind.PING and not self.is_stopped:
            self.pong()
        elif kind is Kind.SLOTS:
            self.resizes[head["change"]] = head["slots"]

    def pass_over_cancelled(self) -> None:
        """Do what a worker does with jobs that nobody waits for."""
        for batch, jobs in list(self.runs.items()):
            for job in [job for job in jobs if job in self.cancelled]:
                jobs.remove(job)
                if self.capacity and job in self.streaming:
                    del self.runs[batch]
                    self._tell(Kind.END, EndHead(job, "cancelled"))
                elif self.capacity:
                    del self.runs[batch]
                    self._tell(Kind.ANSWERS, AnswersHead(batch=batch, jobs=[], end=BatchEnd()))


class PoolRig:
    """A pool, its loop, its clock, and the groups it made."""

    def __init__(self, model: ModelPlan, *, prepare: Any = None, resources: Resources | None = None) -> None:
        self.clock = FakeClock(1000.0)
        self.loop = TimedLoop(self.clock)
        self.made: list[FakeGroup] = []
        self.on_run: Callable[[FakeGroup, list[int]], None] = lambda group, jobs: None
        self._next_job = 1

        async def unchanged(found: ModelPlan) -> ModelPlan:
            return found

        async def start() -> tuple[ModelPool, asyncio.Task[None]]:
            pool = ModelPool(model, prepare or unchanged, self._make_group, self.clock, resources=resources)
            return pool, asyncio.ensure_future(pool.run())

        self.pool, self.task = self.loop.run_until_complete(start())
        self.loop.settle()

    def _make_group(
        self, settings: GroupSettings, placement: Placement, listener: GroupListener
    ) -> FakeGroup:
        group = FakeGroup(settings, placement, listener)
        group.on_run = self._see_run
        self.made.append(group)
        return group

    def _see_run(self, group: FakeGroup, jobs: list[int]) -> None:
        self.on_run(group, jobs)

    @property
    def groups(self) -> list[FakeGroup]:
        """The groups whose processes are there."""
        return [group for group in self.made if group.key in self.pool.groups]

    def load_all(self, **loaded: int) -> None:
        """Load groups until none is starting."""
        while starting := [group for group in self.groups if group.state is GroupState.STARTING]:
            starting[0].load(**loaded)
            self.loop.settle()

    def job(self, body: bytes = b"", *, priority: int = 3) -> Job:
        """Return a new request."""
        number, self._next_job = self._next_job, self._next_job + 1
        now = self.clock.now
        return Job(
            id=number,
            request_id=f"r{number}",
            properties={},
            parts=[("data", Payload(body or b"body %d" % number))],
            codec="",
            priority=priority,
            arrived=now,
            deadline=now + self.pool.plan.group.predict_timeout,
            answer=self.loop.create_future(),
        )

    def submit(self, body: bytes = b"", *, priority: int = 3) -> Job:
        """Queue a new request and let the loop settle."""
        job = self.job(body, priority=priority)
        self.pool.submit(job)
        self.loop.settle()
        return job

    def answer_of(self, job: Job) -> Answer:
        """Return the answer that a job has by now."""
        self.loop.settle()
        assert job.answer.done(), "no answer"
        return job.answer.result()

    def answer_all(self) -> None:
        """Let every worker answer all that it runs."""
        for group in self.groups:
            for batch in group.running() if group.is_connected else []:
                jobs = [job for job in group.runs[batch] if job not in group.cancelled]
                group.answer(batch, {job: b"%d" % job for job in jobs}, is_end=True)
        self.loop.settle()

    def close(self) -> None:
        """End the pool; every group is gone after it."""
        closing = self.loop.create_task(self.pool.close(1.0))
        for _ in range(20):
            self.loop.advance(0.25)
            for group in self.groups:
                if group.drain_was_asked or group.was_killed:
                    group.reap()
            self.loop.settle()
            if self.task.done() and closing.done():
                break
        assert self.task.done()
        assert closing.done()
        self.task.result()
        closing.result()

    def dispose(self) -> None:
        """Leave nothing behind, whatever the test has found."""
        self.loop.errors.clear()
        for group in self.made:
            group.reap()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()


def answer(group: FakeGroup, job: Job, body: bytes = b"done") -> None:
    """Let a worker answer a job that is alone in its batch."""
    batch = next(batch for batch, jobs in group.runs.items() if job.id in jobs)
    group.answer(batch, {job.id: body}, is_end=True)


def where(rig: PoolRig, job: Job) -> list[int]:
    """Return the positions of the groups whose worker has the job now."""
    return [
        number
        for number, group in enumerate(rig.made)
        if group.key in rig.pool.groups and any(job.id in jobs for jobs in group.runs.values())
    ]

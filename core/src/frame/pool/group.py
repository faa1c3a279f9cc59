"""A worker group: one copy of a model in its own process, or in several ranks, from start to end."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from frame.contract.signatures import Signature
from frame.policy.lifecycle import GroupEvent, GroupState, next_state
from frame.pool.batches import Batch, jobs_waiting, late_batches, taken_batches
from frame.pool.deaths import DRAINED, EndKind, Exit, GroupEnd, explain_end, explain_late, failed_start
from frame.pool.folders import make_folder
from frame.pool.heads import decode_head, message, run_message, signature_of
from frame.pool.heartbeat import Heartbeat
from frame.pool.jobs import Job
from frame.pool.listeners import BatchChannel, GroupListener
from frame.pool.logs import LogDrain
from frame.pool.process import GroupProcess, first_of, first_within, start_process
from frame.pool.rank_watch import RankReports, RankWatch
from frame.pool.ranks import Ranks
from frame.pool.settings import GroupSettings, Placement
from frame.wire.frames import MAX_FDS, Frame
from frame.wire.messages import (
    CancelHead,
    CreditHead,
    HelloHead,
    Kind,
    LoadedHead,
    LoadFailedHead,
    PongHead,
    SlotsHead,
    SlotsReadyHead,
    StageHead,
)

_log = logging.getLogger(__name__)
_EXIT_GRACE = 5.0
"""Seconds a worker gets to exit by itself once its connection is closed."""
_LOST_RANK_GRACE = 1.0
"""The same for the launcher of several ranks, when one was lost: the others may wait for it for ever."""
_LOG_GRACE = 1.0


class WorkerGroup:
    """One process and its socket, or a launcher's ranks, each with a socket of its own.

    Every rank gets every batch; rank 0 alone is told of cancellations and credits, and answers.

    Invariants: `run` returns only when the process is gone and its files are removed; a batch is in `batches`
        from `send` until its end was reported or the group ended; state moves as
        `policy.lifecycle.TRANSITIONS` says.
    """

    def __init__(self, settings: GroupSettings, placement: Placement, listener: GroupListener) -> None:
        self.settings = settings
        self.key = placement.key
        self.requested_slots = placement.slots
        self.max_slots = placement.max_slots
        self.slots = 0
        self.concurrency = 0
        self.capacity = 0
        self.rss_bytes = 0
        self.signature: Signature | None = None
        self.self_check: Mapping[str, object] | None = None
        self.state = GroupState.STARTING
        self.started = datetime.now(UTC)  # same spelling as in the worker half
        self.pid: int | None = None
        self.batches: dict[int, Batch] = {}
        self.has_answered = False
        self.drain_within = settings.drain_timeout
        self.seconds: dict[str, float] = {}
        self.logs = LogDrain(placement.log_prefix)
        self.stage, self._allowed = "start", 0.0
        self.ranks: tuple[HelloHead, ...] = ()
        self._listener = listener
        self._channel: BatchChannel | None = None
        self._most_descriptors = MAX_FDS
        self._process: GroupProcess | None = None
        self._loop = loop = asyncio.get_running_loop()
        self._reports = RankReports(settings.ranks)
        self._closed: asyncio.Future[None] = loop.create_future()
        self._drain_asked: asyncio.Future[None] = loop.create_future()
        self._closed_because = ""
        self._kills = placement.kills
        self._heartbeat = Heartbeat(self._ping, self._end_if_idle)
        self._watch = RankWatch(settings.ranks, settings.stall_timeout, self._ping, self._end_stalled)
        self._change = self._threads = 0
        self._next_batch = 1
        self.hung_batches: set[int] = set()
        self._verdict: GroupEnd | None = None

    # --- what the model calls -----------------------------------------------------------------

    @property
    def takes_work(self) -> bool:
        """Whether it is loaded and, as far as is known, alive: a dying group would be blamed on the batch."""
        return self.state is GroupState.READY and self._verdict is None and not self._closed.done()

    @property
    def sent(self) -> int:
        """Batches (jobs, for a `SequenceModel`) that it has, the one that waits in the worker included."""
        return len(self.batches)

    @property
    def runs_suspect(self) -> bool:
        """Whether it runs a job that may have ended another group."""
        return any(batch.is_suspect for batch in self.batches.values())

    @property
    def jobs_ahead(self) -> int:
        """Jobs that wait in the worker."""
        return 0 if len(self.batches) <= self.slots or self.capacity else jobs_waiting(self.batches)

    def send(self, jobs: Sequence[Job], *, is_suspect: bool = False) -> Batch:
        """Run jobs as one batch in a free slot, or after the batch that runs; the caller starts it then."""
        batch = Batch(self._next_batch, {job.id: job for job in jobs}, is_suspect=is_suspect)
        self._next_batch += 1
        self.batches[batch.id] = batch
        for job in jobs:
            job.group_key, job.batch, job.batch_size = self.key, batch.id, len(jobs)
        assert self._channel is not None
        self._channel.send(*run_message(batch.id, jobs, self._most_descriptors))
        return batch

    def start(self, batch: Batch, now: float) -> None:
        """Count the batch's time from now: a slot runs it."""
        batch.started, batch.deadline = now, now + self.settings.predict_timeout
        for job in batch.jobs.values():
            job.dispatched = now

    def cancel(self, job: Job) -> None:
        """Tell the worker that nobody waits for a job; one that has not started frees its place at once."""
        batch = self.batches.get(job.batch)
        if batch is not None and not batch.has_started:
            batch.jobs.pop(job.id, None)
        self._send(Kind.CANCEL, CancelHead([job.id]))

    def grant(self, job: Job) -> None:
        """Let a job's stream send one chunk more."""
        if self.find_job(job.id) is not None:
            self.progressed(job)
            self._send(Kind.CREDIT, CreditHead(job.id, 1))

    def find_job(self, job_id: int) -> Job | None:
        """Return an unfinished job of this group."""
        return next((batch.jobs[job_id] for batch in self.batches.values() if job_id in batch.jobs), None)

    def progressed(self, job: Job) -> None:
        """A chunk came or was taken: the batch does not hang."""
        self.batches[job.batch].deadline = self._loop.time() + self.settings.predict_timeout

    @property
    def plan_slots(self) -> int:
        """Workers that this group was asked to be, as far as its copy allows; a `SequenceModel` is one."""
        return self.requested_slots

    def resize(self, slots: int) -> None:
        """Ask for so many slots, 1 to `concurrency`: more count once they are warm, fewer at once."""
        slots = max(1, min(slots, self.concurrency))
        if self.state is not GroupState.READY or slots == self.requested_slots:
            return
        self.requested_slots = slots
        self.slots = min(self.slots, slots)
        self._change += 1
        self._send(Kind.SLOTS, SlotsHead(self._change, slots))

    @property
    def taken(self) -> list[Batch]:
        """Batches that were sent to wait, and that a thread of the worker runs all the same."""
        return taken_batches(self.batches, self._threads)

    def end_if_hung(self, now: float) -> None:
        """End the group when a batch has run for too long; other slots' batches may finish first."""
        late = late_batches(self.batches, now, self.settings.predict_timeout) - self.hung_batches
        if not late:
            return
        if not self.hung_batches:
            self._loop.call_later(self.settings.drain_timeout, self._kill_hung)
            self._heartbeat.ask(self._kill_when_rest_is_done)
        self.hung_batches |= late
        self.state = next_state(self.state, GroupEvent.DRAIN)
        self._kill_when_rest_is_done()

    def _kill_hung(self) -> None:
        if self.state is GroupState.ENDED:
            return
        self.kill(*explain_late(self.settings.predict_timeout, self._heartbeat.silence))

    def _end_stalled(self, why: str) -> None:
        self.kill("stalled", f"{why} (option.group_stall_timeout={self.settings.stall_timeout:g})")

    def _end_if_idle(self) -> None:
        """End a silent process: one that fell silent over a batch has that batch's time."""
        since = self._heartbeat.silent_since or 0.0
        if all(batch.started > since for batch in self.batches.values() if batch.has_started):
            self.kill("hung", f"no heartbeat for {self._heartbeat.silence:.0f} s")

    def batch_ended(self, batch: Batch) -> Batch | None:
        """A batch is done; return the one that waited for its slot. The last beside a hung one ends all."""
        self.batches.pop(batch.id, None)
        self.has_answered = True
        self._heartbeat.beat()
        if self.hung_batches:
            self._kill_when_rest_is_done()
        return next((item for item in self.batches.values() if not item.has_started), None)

    def _kill_when_rest_is_done(self) -> None:
        running = {batch.id for batch in self.batches.values() if batch.has_started}
        if running <= self.hung_batches and not self._heartbeat.is_asking:
            self._kill_hung()

    def drain(self) -> None:
        """Let the group finish what it runs, then end it."""
        self.state = next_state(self.state, GroupEvent.DRAIN)
        if not self._drain_asked.done():
            self._drain_asked.set_result(None)

    def kill(self, kind: EndKind, cause: str) -> None:
        """End the group now; `kind` and `cause` explain it."""
        self._stop_asking()
        if self._verdict is None:
            self._verdict = GroupEnd(kind=kind, cause=cause, has_answered=self.has_answered)
        self.state = next_state(self.state, GroupEvent.ENDED)
        if self._process is not None:
            self._process.kill()

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> GroupEnd:
        """Start the group, serve until it ends, clean up; return how it ended."""
        folder = make_folder()
        try:
            self._process = process = await start_process(self.settings, folder, self.key, self)
            if self._verdict is not None:  # it was killed before there was a process
                process.kill()
            async with asyncio.TaskGroup() as tasks:
                logs = tasks.create_task(self.logs.drain(process.output))
                exited = tasks.create_task(process.process.wait())
                end = await self._live(tasks, process, exited)
                if end is not None:
                    process.kill()
                is_lost = process.is_launcher and not self._drain_asked.done()
                ended = await process.end(_LOST_RANK_GRACE if is_lost else _EXIT_GRACE)
                process.kill_children()
                await asyncio.wait((logs,), timeout=_LOG_GRACE)
                logs.cancel()  # a child of the worker may still hold its output open
            return end or self._judge(ended)
        except Exception as error:  # noqa: BLE001  # fault line: around one worker group, its plugin included
            _log.warning("worker_start_failed model=%s group=%d", self.settings.name, self.key, exc_info=True)
            return failed_start(error)
        finally:
            self.state = next_state(self.state, GroupEvent.ENDED)
            self._stop_asking()
            if self._process is not None:
                await self._process.reap()
            shutil.rmtree(folder, ignore_errors=True)

    async def _live(
        self, tasks: asyncio.TaskGroup, process: GroupProcess, exited: asyncio.Task[int]
    ) -> GroupEnd | None:
        """Connect, load, serve until the socket closes; None when the process's exit tells how it ended."""
        joined = tasks.create_task(process.ranks.gather(process.listener))
        limit = self.settings.start_timeout
        in_time = await first_of(limit, joined, exited, self._closed, self._drain_asked)
        if not joined.done():
            joined.cancel()
            if in_time:
                return DRAINED if self._drain_asked.done() else None
            return GroupEnd(kind="died", cause=process.ranks.explain_missing(limit))
        process.close_listener()
        self._join(process.ranks)
        ends = (self._reports.result, self._closed, self._drain_asked, exited)
        if not await first_within(lambda: self.settings.load_timeout + self._allowed, *ends):
            return self._reports.explain_late(self.stage, self.settings.load_timeout)
        if not self._reports.result.done():
            return DRAINED if self._drain_asked.done() else None
        report = self._reports.result.result()
        if isinstance(report, GroupEnd):
            return report
        self._take_loaded(report)
        await self._serve(exited)
        return None

    def _take_loaded(self, loaded: LoadedHead) -> None:
        self.slots = self.requested_slots = self._threads = loaded.slots
        self.concurrency, self.capacity = loaded.concurrency, loaded.capacity
        self.seconds, self.rss_bytes, self.self_check = loaded.seconds, loaded.rss_bytes, loaded.self_check
        self.signature = signature_of(loaded)
        self.state = next_state(self.state, GroupEvent.LOADED)
        self._heartbeat.begin()
        self._watch.begin()
        self._listener.group_loaded(self)

    async def _serve(self, exited: asyncio.Task[int]) -> None:
        """Wait until the worker is gone, or a drain was asked for and what runs is done or out of time.

        The process's exit counts as well as the socket's end: a child of the worker may hold the socket open.
        """
        gone = (self._closed, exited)
        await asyncio.wait((*gone, self._drain_asked), return_when=asyncio.FIRST_COMPLETED)
        if not any(future.done() for future in gone):
            self._send(Kind.DRAIN, {})
            if not await first_of(self.drain_within, *gone):
                self.kill("drained", "drained; what ran was cut")

    def _judge(self, ended: Exit) -> GroupEnd:
        """Say how the group ended, from what was asked of it and how its process exited."""
        if self._verdict is not None:
            return self._verdict
        if self._drain_asked.done():
            return replace(DRAINED, has_answered=self.has_answered)
        kind, cause = explain_end(ended, self._closed_because, self._kills, self.settings.ranks)
        cause = cause if self.slots else f"{self.stage}: {cause}"
        return GroupEnd(kind=kind, cause=cause, has_answered=self.has_answered)

    # --- messages -----------------------------------------------------------------------------

    def _ping(self) -> None:
        self._kills.sample()
        if self._channel is not None:
            self._channel.send(message(Kind.PING, {}))

    def _send(self, kind: Kind, head: object) -> None:
        """Tell rank 0."""
        lead = self._channel.lead if isinstance(self._channel, Ranks) else self._channel
        if lead is not None:
            lead.send(message(kind, head))

    def _stop_asking(self) -> None:
        self._heartbeat.stop()
        self._watch.stop()

    def rank_closed(self, rank: int, reason: str) -> None:
        """Take the end of a rank's connection: of one, it is the end of all."""
        self._take_closed(reason if self.settings.ranks == 1 else f"rank {rank}: {reason}")

    def rank_frame(self, rank: int, frame: Frame, mapped: list[memoryview]) -> None:
        """Take a message of a rank; only rank 0 may speak of jobs and slots."""
        if rank == 0:
            self._take_frame(frame, mapped)
            return
        head = decode_head(frame) if frame.kind < Kind.ANSWERS else None
        if isinstance(head, PongHead):
            self._take_pong(rank, head)
        elif isinstance(head, (LoadedHead, LoadFailedHead)):
            self._reports.take(rank, head)
        elif not isinstance(head, StageHead):
            self.kill("died", f"rank {rank} sent what only rank 0 may send (message kind {frame.kind})")

    def _take_pong(self, rank: int, pong: PongHead) -> None:
        if rank == 0:
            self._heartbeat.beat()
        self._watch.heard(rank, pong.progress)

    def _take_closed(self, reason: str) -> None:
        _log.debug("worker_disconnected model=%s group=%d reason=%s", self.settings.name, self.key, reason)
        self.state = next_state(self.state, GroupEvent.ENDED)  # at once: nothing more may be sent here
        self._closed_because = self._closed_because or reason
        self._stop_asking()
        if not self._closed.done():
            self._closed.set_result(None)

    def _take_frame(self, frame: Frame, mapped: list[memoryview]) -> None:
        if frame.kind >= Kind.ANSWERS:
            self._listener.group_frame(self, frame, mapped)
            return
        head = decode_head(frame)
        if isinstance(head, PongHead):
            self._take_pong(0, head)
        elif isinstance(head, SlotsReadyHead):
            self._take_slots(head)
        elif isinstance(head, StageHead):
            self.stage = head.stage
            self._allowed += head.allowed
        elif isinstance(head, (LoadedHead, LoadFailedHead)):
            self._reports.take(0, head)

    def _take_slots(self, head: SlotsReadyHead) -> None:
        """Count the slots that the worker has now, unless it does not know yet how many it should have."""
        if head.change != self._change or self.state is not GroupState.READY:
            return
        if head.error:
            facts = (self.settings.name, self.key, head.slots, head.error)
            _log.warning("worker_slot_failed model=%s group=%d slots=%d cause=%s", *facts)
            self.concurrency = self.requested_slots = head.wanted  # this copy does not get more
        self._threads = head.slots
        self.slots = min(head.slots, self.requested_slots)
        self._listener.group_resized(self)

    def _join(self, ranks: Ranks) -> None:
        """Take the ranks' channels, now that all have said hello, and tell each what to load."""
        self.ranks = tuple(rank.hello for _, rank in sorted(ranks.by_number.items()))
        self.pid = self.ranks[0].pid
        self._channel = ranks.lead if len(self.ranks) == 1 else ranks
        self._most_descriptors = MAX_FDS if ranks.passes_descriptors else 0
        ranks.load(self.settings, self.requested_slots, self.max_slots)

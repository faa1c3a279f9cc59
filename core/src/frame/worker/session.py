"""A worker's life: say hello, load the model stage by stage, run its slots, drain, end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from typing import NoReturn

from frame.contract.models import Engine, Model, SequenceModel
from frame.contract.requests import RequestError
from frame.wire.frames import WireError
from frame.wire.messages import (
    Kind,
    LoadFailedHead,
    LoadHead,
    PongHead,
    SlotsReadyHead,
    StageHead,
    run_from_json,
)
from frame.worker.answers import is_out_of_memory
from frame.worker.channel import Channel, Message
from frame.worker.crew import Crew, CrewTasks
from frame.worker.follower import Follower
from frame.worker.inbox import Inbox
from frame.worker.link import LinkError
from frame.worker.loading import load_model, loaded_head, most_slots
from frame.worker.payloads import Payloads
from frame.worker.ranks import Ranks, set_master
from frame.worker.sequences import SequenceDriver
from frame.worker.slots import Slot, Work, WorkQueue
from frame.worker.streams import JobTable

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 30.0
_FAREWELL_SECONDS = 1.0
"""How long a rank of several that could not load, or lost another one, waits for the router to act.

So that the router hears first of the rank that is the cause.
"""


class Session:
    """One worker process. The main thread loads the model and is slot 0; see `inbox` for who reads.

    Where it follows rank 0 of its group, the helper thread alone reads what the router sends.
    """

    def __init__(self, channel: Channel, ranks: Ranks) -> None:
        self._channel = channel
        self._ranks = ranks
        self._payloads = Payloads()
        self._follower: Follower | None = None
        self._jobs = JobTable()
        self._inbox: WorkQueue = Inbox(self._read)
        self._load: LoadHead | None = None
        self._stage = "start"
        self._crew: Crew | None = None
        self._seconds: dict[str, float] = {}

    def run(self) -> int:
        """Run to the end; return the process's exit code."""
        while self._load is None:
            self._read(None)
        head = self._load
        self._channel.notice_loss(head.stall_timeout)
        set_master(head)
        threading.Thread(target=self._help, name="frame-io", daemon=True).start()
        if head.world_size == 1:
            return self._live(head)
        code = 1
        try:
            code = self._live(head)
        finally:
            if code != 0:  # also for a handler's sys.exit()
                self._end_now()
        return code

    def _live(self, head: LoadHead) -> int:
        """Load the model, serve with it, close it; return the exit code.

        A rank of several that failed closes nothing: that may wait for a collective which no other enters.
        """
        try:
            if head.world_size > 1:
                self._enter_stage("join ranks")
            self._ranks.join(head, self._lose)
            engine, model = load_model(head, self._enter_stage)
        except Exception as error:  # noqa: BLE001  # fault line: around a plugin's code
            self._report_failure(error)
            return 1
        closing = ExitStack()
        closing.callback(self._ranks.close)
        closing.callback(engine.close)
        closing.callback(model.close)
        if head.world_size == 1:
            with closing:
                return self._serve(head, engine, model)
        code = self._serve(head, engine, model)
        if code == 0:
            closing.close()
        return code

    # --- reading ------------------------------------------------------------------------------

    def _help(self) -> None:
        """Read while the slots are busy, or the model loads; always, where rank 0 says what to do."""
        try:
            while self._ranks.place.rank:
                self._read(None)
            self._inbox.help()
        except Exception:  # noqa: BLE001  # fault line: a broken connection must end the process, whatever broke it
            self._end_now()

    def _read(self, timeout: float | None) -> list[Work | None]:
        """Take what came: work is returned, all else is done here.

        Once the router is gone nothing is wanted.
        """
        try:
            found: list[Work | None] = []
            for message in self._channel.read(timeout):
                found += self._take(message)
        except (OSError, WireError, ValueError):
            self._end_now()
        return found

    def _lose(self, rank: int) -> None:
        """End because another rank is lost."""
        _log.warning("rank_lost lost=%d", rank)
        time.sleep(_FAREWELL_SECONDS)  # not a condition: nothing here tells when the router knows
        self._end_now()

    def _end_now(self) -> NoReturn:
        _log.debug("connection_ended", exc_info=True)
        sys.stderr.flush()
        os._exit(1)

    def _take(self, message: Message) -> list[Work | None]:
        kind, head, buffers = message
        if kind is Kind.RUN:
            run = run_from_json(head)
            if self._ranks.place.rank:
                self._payloads.add(run, buffers)
                return []
            self._jobs.add(job.id for job in run.jobs)
            return [Work(run, buffers)]
        if kind is Kind.CREDIT:
            self._jobs.grant(head["job"], head["count"])
        elif kind is Kind.CANCEL:
            self._jobs.cancel(head["jobs"])
        elif kind is Kind.LOAD:
            self._load = LoadHead(**head)
        elif kind is Kind.PING:
            self._channel.send(Kind.PONG, PongHead(self._progress()))
        elif self._crew is not None and kind is Kind.SLOTS:
            self._crew.resize(**head)
        elif kind is Kind.DRAIN:
            return [None] * (1 if self._crew is None else self._crew.most)
        return []

    def _progress(self) -> int:
        return (self._follower or self._ranks.lockstep).progress

    # --- loading ------------------------------------------------------------------------------

    def _enter_stage(self, stage: str, allowed: float = 0.0) -> None:
        now = time.monotonic()
        if self._seconds:
            self._seconds[self._stage] = round(now - self._seconds[self._stage], 4)
        self._stage = stage
        self._seconds[stage] = now
        self._channel.send(Kind.STAGE, StageHead(stage, allowed))

    def _report_failure(self, error: Exception) -> None:
        traceback.print_exception(error)
        sys.stderr.flush()
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        status = 507 if is_out_of_memory(error) else 500
        if isinstance(error, RequestError):
            message, status = error.message, error.status
        self._channel.send(
            Kind.LOAD_FAILED, LoadFailedHead(stage=self._stage, status=status, message=message)
        )
        if self._ranks.place.world_size > 1:
            time.sleep(_FAREWELL_SECONDS)

    # --- serving ------------------------------------------------------------------------------

    def _serve(self, head: LoadHead, engine: Engine, model: Model) -> int:
        self._enter_stage("warm-up")
        ends_on_error = head.world_size > 1
        tasks = CrewTasks(
            drive=lambda: self._drive(model, ends_on_error=ends_on_error, can_leave=True),
            report=self._report_slots,
        )
        if head.rank:
            self._follower = Follower(
                model,
                self._payloads,
                self._ranks.receive,
                self._ranks.reply,
                stall_timeout=head.stall_timeout,
            )
        self._crew = crew = Crew(engine, model, self._inbox, tasks, most=most_slots(head, model))
        try:
            with engine.slot_context():
                model.warm_up()
                crew.start(min(head.slots, crew.most))
                self._report_loaded(model, min(head.slots, crew.most), crew.most)
                self._drive(model, ends_on_error=ends_on_error)
                self._ranks.stop()
        except Exception as error:  # noqa: BLE001  # fault line: around a plugin's code
            if self._stage == "warm-up":
                self._report_failure(error)
            else:
                _log.exception("slot_failed")
            if isinstance(error, LinkError):
                time.sleep(_FAREWELL_SECONDS)
            return 1
        crew.join(_JOIN_SECONDS)
        return 0

    def _drive(self, model: Model, *, ends_on_error: bool, can_leave: bool = False) -> None:
        """Run batches, or the steps of a `SequenceModel`, in the calling thread until drained."""
        if self._follower is not None:
            self._follower.run()
            return
        ends = (model, self._channel, self._jobs, self._inbox)
        step = self._ranks.lockstep
        if isinstance(model, SequenceModel):
            SequenceDriver(model, *ends[1:], ends_on_error=ends_on_error, lockstep=step).run()
            return
        Slot(*ends, ends_on_error=ends_on_error, can_leave=can_leave, lockstep=step).run()

    def _report_slots(self, head: SlotsReadyHead) -> None:
        self._channel.send(Kind.SLOTS_READY, head)

    def _report_loaded(self, model: Model, slots: int, most: int) -> None:
        self._seconds[self._stage] = round(time.monotonic() - self._seconds[self._stage], 4)
        self._stage = "ready"
        self._channel.send(Kind.LOADED, loaded_head(model, slots=slots, most=most, seconds=self._seconds))

"""A worker's life: say hello, load the model stage by stage, run its slots, drain, end."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from frame.contract.models import Engine, EngineContext, Model, ModelSpec, SequenceModel, TensorModel
from frame.contract.options import option_keys, parse_options
from frame.contract.requests import RequestError
from frame.wire.frames import WireError
from frame.wire.messages import (
    Kind,
    LoadedHead,
    LoadFailedHead,
    LoadHead,
    SlotsReadyHead,
    SpecHead,
    StageHead,
    run_from_json,
)
from frame.wire.padding import Padding
from frame.worker.answers import is_out_of_memory
from frame.worker.channel import Channel, Message
from frame.worker.crew import Crew, CrewTasks
from frame.worker.inbox import Inbox
from frame.worker.memory import resident_bytes
from frame.worker.sequences import SequenceDriver
from frame.worker.slots import Slot, Work, WorkQueue
from frame.worker.streams import JobTable

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 30.0


class Session:
    """One worker process. The main thread loads the model and is slot 0; see `inbox` for who reads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
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
        threading.Thread(target=self._help, name="frame-io", daemon=True).start()
        try:
            engine, model = self._build(head)
        except Exception as error:  # noqa: BLE001  # fault line: around a plugin's code
            self._report_failure(error)
            return 1
        try:
            return self._serve(head, engine, model)
        finally:
            model.close()
            engine.close()

    # --- reading ------------------------------------------------------------------------------

    def _help(self) -> None:
        """Read while the slots are busy, or the model loads."""
        try:
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

    def _end_now(self) -> NoReturn:
        _log.debug("connection_ended", exc_info=True)
        sys.stderr.flush()
        os._exit(1)

    def _take(self, message: Message) -> list[Work | None]:
        kind, head, buffers = message
        if kind is Kind.RUN:
            run = run_from_json(head)
            self._jobs.add(job.id for job in run.jobs)
            return [Work(run, buffers)]
        if kind is Kind.CREDIT:
            self._jobs.grant(head["job"], head["count"])
        elif kind is Kind.CANCEL:
            self._jobs.cancel(head["jobs"])
        elif kind is Kind.LOAD:
            self._load = LoadHead(**head)
        elif kind is Kind.PING:
            self._channel.send(Kind.PONG, {})
        elif self._crew is not None and kind is Kind.SLOTS:
            self._crew.resize(**head)
        elif kind is Kind.DRAIN:
            return [None] * (1 if self._crew is None else self._crew.most)
        return []

    # --- loading ------------------------------------------------------------------------------

    def _enter_stage(self, stage: str) -> None:
        now = time.monotonic()
        if self._seconds:
            self._seconds[self._stage] = round(now - self._seconds[self._stage], 4)
        self._stage = stage
        self._seconds[stage] = now
        self._channel.send(Kind.STAGE, StageHead(stage))

    def _build(self, head: LoadHead) -> tuple[Engine, Model]:
        """Import the engine and load the model, with the model directory as current directory."""
        os.chdir(head.path)
        self._enter_stage("import engine")
        options_type, engine_type = resolve(head.options_target), resolve(head.engine_target)
        self._enter_stage("create engine")
        context = EngineContext(
            devices=tuple(head.devices),
            rank=head.rank,
            world_size=head.world_size,
            threads=head.threads,
            slots=1 if head.shares_model is False else head.max_slots,
        )
        engine: Engine = engine_type(context)
        sys.path.insert(
            0, head.path
        )  # only now: a model's torch.py must not hide the framework from the engine
        self._enter_stage("load model")
        known = option_keys(options_type)
        own = {key: value for key, value in head.properties.items() if key in known}
        spec = ModelSpec(
            name=head.name,
            version=head.version,
            path=head.path,
            model_file=head.model_file,
            options=parse_options(options_type, own),
            properties=head.properties,
            batch_size=head.batch_size,
        )
        model = engine.load(spec)
        if isinstance(model, TensorModel):
            from frame.worker.codecs.images import image_input  # numpy: only where there are tensors

            model.image_input = image_input(head.properties, model.signature)
            if head.padding is not None:
                from frame.worker.padding import Padder

                model.padder = Padder(Padding.from_json(head.padding), model.signature)
        return engine, model

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

    # --- serving ------------------------------------------------------------------------------

    def _serve(self, head: LoadHead, engine: Engine, model: Model) -> int:
        self._enter_stage("warm-up")
        ends_on_error = head.world_size > 1
        tasks = CrewTasks(
            drive=lambda: self._drive(model, ends_on_error=ends_on_error, can_leave=True),
            report=self._report_slots,
        )
        self._crew = crew = Crew(engine, model, self._inbox, tasks, most=most_slots(head, model))
        try:
            with engine.slot_context():
                model.warm_up()
                crew.start(min(head.slots, crew.most))
                self._report_loaded(model, min(head.slots, crew.most), crew.most)
                self._drive(model, ends_on_error=ends_on_error)
        except Exception as error:  # noqa: BLE001  # fault line: around a plugin's code
            if self._stage == "warm-up":
                self._report_failure(error)
            else:
                _log.exception("slot_failed")
            return 1
        crew.join(_JOIN_SECONDS)
        return 0

    def _drive(self, model: Model, *, ends_on_error: bool, can_leave: bool = False) -> None:
        """Run batches, or the steps of a `SequenceModel`, in the calling thread until drained."""
        if isinstance(model, SequenceModel):
            SequenceDriver(model, self._channel, self._jobs, self._inbox, ends_on_error=ends_on_error).run()
            return
        slot = Slot(
            model, self._channel, self._jobs, self._inbox, ends_on_error=ends_on_error, can_leave=can_leave
        )
        slot.run()

    def _report_slots(self, head: SlotsReadyHead) -> None:
        self._channel.send(Kind.SLOTS_READY, head)

    def _report_loaded(self, model: Model, slots: int, most: int) -> None:
        self._seconds[self._stage] = round(time.monotonic() - self._seconds[self._stage], 4)
        self._stage = "ready"
        loaded = LoadedHead(slots=slots, concurrency=most, rss_bytes=resident_bytes(), seconds=self._seconds)
        if isinstance(model, SequenceModel):
            loaded.capacity = model.capacity()
        if model.signature is not None:
            loaded.inputs, loaded.outputs = (
                [
                    SpecHead(spec.name, spec.dtype, None if spec.shape is None else list(spec.shape))
                    for spec in specs
                ]
                for specs in (model.signature.inputs, model.signature.outputs)
            )
        self._channel.send(Kind.LOADED, loaded)


def most_slots(head: LoadHead, model: Model) -> int:
    """Return how many batches may overlap on this copy: the model's answer, unless the router forces it."""
    if isinstance(model, SequenceModel) or head.shares_model is False:
        return 1
    return max(1, head.max_slots if head.shares_model else min(head.max_slots, model.concurrency))


def resolve(target: str) -> Any:
    """Import `"package.module:Name"`."""
    module, _, name = target.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in name.split("."):
        value = getattr(value, attribute)
    return value

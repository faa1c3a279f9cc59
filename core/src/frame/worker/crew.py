"""The slot threads of one loaded model: more of them while it runs, and fewer."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from frame.contract.models import Engine, Model
from frame.wire.messages import SlotsReadyHead
from frame.worker.slots import WorkQueue

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewTasks:
    """What the crew's threads do.

    Attributes:
        drive: runs batches in the calling thread until drained or let go.
        report: tells the router.
    """

    drive: Callable[[], None]
    report: Callable[[SlotsReadyHead], None]


class Crew:
    """All slots of a worker. Slot 0 is the thread that loaded the model; the others are threads of this crew.

    Invariants: a thread is warmed up by itself before it takes work; at most `most` threads take work; slot 0
        never leaves; a thread that is too much leaves when it is idle; each message of the router is reported
        on, with its number, and so is each thread that came or left after it.
    """

    def __init__(self, engine: Engine, model: Model, work: WorkQueue, tasks: CrewTasks, *, most: int) -> None:
        self.most = most
        self._engine = engine
        self._model = model
        self._work = work
        self._tasks = tasks
        self._lock = threading.Lock()
        self._change = 0
        self._ready = 1
        self._wanted = 1
        self._threads: list[threading.Thread] = []

    def start(self, slots: int) -> None:
        """Be so many slots, warmed up one after the other; for the load.

        Raises:
            Exception: what a warm-up raised.
        """
        for _ in range(1, slots):
            thread = _SlotThread(self, reports=False)
            thread.start_warm()
            self._threads.append(thread)
            self._ready += 1
            self._wanted += 1

    def resize(self, change: int, slots: int) -> None:
        """Be so many slots, within 1 and `most`; returns at once. For the thread that reads."""
        with self._lock:
            slots = max(1, min(slots, self.most))
            self._change = change
            missing = slots - self._wanted
            if missing < 0:
                self._work.let_go(-missing)
            elif missing > 0:
                missing -= self._work.keep(missing)
            self._wanted = slots
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            added = [_SlotThread(self, reports=True) for _ in range(missing)]
            self._threads += added
            self._report()
        for thread in added:
            thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the other slots have ended, so many seconds for each at most."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(seconds)

    # --- what the threads call ----------------------------------------------------------------

    def run_slot(self, warmed_up: Callable[[Exception | None], None]) -> None:
        """Warm up and run batches in the calling thread, inside the engine's context."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._engine.slot_context())
                self._model.warm_up()
            except Exception as error:  # noqa: BLE001  # fault line: around a plugin's code
                warmed_up(error)
                return
            warmed_up(None)
            self._tasks.drive()

    def came(self, error: Exception | None) -> None:
        """Count a thread that is warm now, or that could not be warmed up."""
        with self._lock:
            if error is None:
                self._ready += 1
                self._report()
                return
            _log.warning("slot_warm_up_failed slots=%d", self._ready, exc_info=error)
            if not self._work.keep(1):  # one that was to leave may stay in its place
                self._wanted -= 1
            self._report(f"{type(error).__name__}: {error}")

    def left(self) -> None:
        """Count a thread that takes no more work."""
        with self._lock:
            self._ready -= 1
            self._report()

    def _report(self, error: str = "") -> None:
        head = SlotsReadyHead(change=self._change, slots=self._ready, wanted=self._wanted, error=error)
        self._tasks.report(head)  # inside the lock: the last report is the latest


class _SlotThread(threading.Thread):
    """A further slot of the same model."""

    def __init__(self, crew: Crew, *, reports: bool) -> None:
        super().__init__(name="frame-slot", daemon=True)
        self._crew = crew
        self._reports = reports
        self._warm = threading.Event()
        self._error: Exception | None = None

    def start_warm(self) -> None:
        """Start, and return when warm; raises what the warm-up raised."""
        self.start()
        self._warm.wait()  # the router's model_loading_timeout is the deadline: it kills this process
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Warm up, run batches, leave."""
        try:
            self._crew.run_slot(self._warmed_up)
            if self._error is None:
                self._crew.left()
        except SystemExit:  # a handler's sys.exit() ends its process, whichever slot it ran in
            sys.stderr.flush()
            os._exit(1)
        except Exception:  # noqa: BLE001  # fault line: a slot that cannot go on must end the group
            _log.exception("slot_failed")
            sys.stderr.flush()
            os._exit(1)
        finally:
            self._warm.set()

    def _warmed_up(self, error: Exception | None) -> None:
        self._error = error
        self._warm.set()
        if self._reports:
            self._crew.came(error)

"""The crew: slots of a loaded model that come and leave while it runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from frame.api import Engine, EngineContext, Model, ModelSpec, Response
from frame.wire.messages import Kind, SlotsReadyHead
from frame.worker.channel import Channel
from frame.worker.crew import Crew, CrewTasks
from frame.worker.inbox import Inbox
from frame.worker.memory import resident_bytes

from tests.unit.worker_rig import DEADLINE, wait_until


class Gated(Model):
    """A model whose warm-ups wait for leave, or fail."""

    def __init__(self) -> None:
        self.warm_ups: list[str] = []
        self.may_warm = threading.Event()
        self.may_warm.set()
        self.failures: list[Exception] = []
        self._lock = threading.Lock()

    def predict(self, batch):
        return [Response() for _ in batch]

    def warm_up(self) -> None:
        with self._lock:
            self.warm_ups.append(threading.current_thread().name)
        assert self.may_warm.wait(DEADLINE)
        with self._lock:
            if self.failures:
                raise self.failures.pop()


class Entered(Engine):
    """An engine that counts the threads in its context."""

    inside = 0

    def load(self, spec: ModelSpec) -> Model:
        raise NotImplementedError

    @contextmanager
    def slot_context(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class Ship:
    """A crew whose work is numbers; slot 0 is a thread of the test."""

    def __init__(self, most: int = 4) -> None:
        self._near, self._far = socket.socketpair()
        self._channel = Channel(self._far)
        self._router = Channel(self._near)
        self.model, self.engine = Gated(), Entered(EngineContext(devices=("cpu",)))
        self.inbox: Inbox[str] = Inbox(self._read)
        self.reports: list[SlotsReadyHead] = []
        self.running: dict[str, threading.Event] = {}
        self.done: list[tuple[str, str]] = []
        tasks = CrewTasks(drive=lambda: self._drive(can_leave=True), report=self.reports.append)
        self.crew = Crew(self.engine, self.model, self.inbox, tasks, most=most)  # type: ignore[arg-type]
        self._first = threading.Thread(target=self._drive, name="first", daemon=True)
        self._helper = threading.Thread(target=self._help, daemon=True)
        self._sent = 0

    def launch(self, slots: int = 1) -> None:
        self.crew.start(slots)
        self._first.start()
        self._helper.start()

    def _read(self, timeout):
        found = []
        for kind, head, _ in self._channel.read(timeout):
            if kind is Kind.SLOTS:
                self.crew.resize(**head)
            else:
                found += head["work"]
        return found

    def _drive(self, *, can_leave: bool = False) -> None:
        while (work := self.inbox.get(can_leave=can_leave)) is not None:
            self.done.append((work, threading.current_thread().name))
            if work in self.running:
                assert self.running[work].wait(DEADLINE)

    def _help(self) -> None:
        try:
            self.inbox.help()
        except OSError:
            return  # the ship was left

    def resize(self, slots: int) -> None:
        self._sent += 1
        self._router.send(Kind.SLOTS, {"change": self._sent, "slots": slots})

    def send(self, *work: str, is_long: bool = False) -> None:
        for item in work:
            if is_long:
                self.running[item] = threading.Event()
        self._router.send(Kind.RUN, {"work": list(work)})

    def wait_report(self, slots: int, wanted: int) -> None:
        wait_until(lambda: bool(self.reports) and self.last == (self._sent, slots, wanted))

    @property
    def last(self) -> tuple[int, int, int]:
        return self.reports[-1].change, self.reports[-1].slots, self.reports[-1].wanted

    @property
    def threads(self) -> int:
        return self.engine.inside

    def leave(self) -> None:
        for event in self.running.values():
            event.set()
        self.model.may_warm.set()
        self._router.send(Kind.DRAIN, {"work": [None] * self.crew.most})
        self._first.join(DEADLINE)
        assert not self._first.is_alive()
        self.crew.join(DEADLINE)
        assert self.engine.inside == 0
        self._near.close()
        self._helper.join(DEADLINE)
        self._far.close()


@pytest.fixture
def ship() -> Iterator[Ship]:
    made = Ship()
    yield made
    made.leave()


def test_slots_of_the_load_are_warm_before_it_returns(ship):
    ship.launch(3)
    assert len(ship.model.warm_ups) == 2
    assert ship.threads == 2
    assert ship.reports == []


def test_a_warm_up_that_fails_while_loading_fails_the_load(ship):
    ship.model.failures.append(RuntimeError("no streams"))
    with pytest.raises(RuntimeError, match="no streams"):
        ship.crew.start(2)
    ship.launch()


def test_further_slots_are_reported_once_warm(ship):
    ship.launch()
    ship.model.may_warm.clear()
    ship.resize(3)
    ship.wait_report(1, 3)
    wait_until(lambda: len(ship.model.warm_ups) == 2)
    assert ship.last == (1, 1, 3)
    ship.model.may_warm.set()
    ship.wait_report(3, 3)
    assert [report.slots for report in ship.reports] == [1, 2, 3]


def test_a_further_slot_runs_beside_the_others(ship):
    ship.launch()
    ship.send("long", is_long=True)
    wait_until(lambda: len(ship.done) == 1)
    ship.resize(2)
    ship.wait_report(2, 2)
    ship.send("other")
    wait_until(lambda: len(ship.done) == 2)
    assert ship.done[1] == ("other", "frame-slot")


def test_idle_slots_leave_and_the_first_one_stays(ship):
    ship.launch(4)
    ship.resize(1)
    ship.wait_report(1, 1)
    wait_until(lambda: ship.threads == 0)
    ship.send("work")
    wait_until(lambda: ship.done == [("work", "first")])


def test_as_many_leave_as_are_too_many(ship):
    ship.launch(4)
    wait_until(lambda: ship.inbox._waiting == 3)  # one thread of the crew reads
    ship.resize(3)
    ship.wait_report(3, 3)
    ship.send("a", "b", "c", is_long=True)
    wait_until(lambda: len(ship.done) == 3)
    assert ship.threads == 2


def test_a_busy_slot_finishes_and_then_leaves(ship):
    ship.launch(2)
    ship.send("a", "b", is_long=True)
    wait_until(lambda: len(ship.done) == 2)
    ship.resize(1)
    ship.wait_report(2, 1)
    assert ship.threads == 1
    for event in ship.running.values():
        event.set()
    ship.wait_report(1, 1)
    wait_until(lambda: ship.threads == 0)


def test_a_slot_that_has_not_left_stays_when_it_is_wanted_again(ship):
    ship.launch(2)
    ship.send("a", "b", is_long=True)
    wait_until(lambda: len(ship.done) == 2)
    ship.resize(1)
    ship.wait_report(2, 1)
    ship.resize(2)
    ship.wait_report(2, 2)
    for event in ship.running.values():
        event.set()
    ship.send("c", "d", is_long=True)
    wait_until(lambda: len(ship.done) == 4)
    assert len(ship.model.warm_ups) == 1


def test_sizes_are_kept_within_one_and_the_most(ship):
    ship.launch()
    ship.resize(99)
    ship.wait_report(4, 4)
    ship.resize(0)
    ship.wait_report(1, 1)


def test_a_further_slot_that_fails_leaves_the_others_and_is_reported(ship):
    ship.launch()
    ship.model.failures.append(RuntimeError("no streams"))
    ship.resize(3)
    ship.wait_report(2, 2)
    assert [report.error for report in ship.reports if report.error] == ["RuntimeError: no streams"]
    ship.send("a", "b", is_long=True)
    wait_until(lambda: len(ship.done) == 2)
    ship.resize(3)
    ship.wait_report(3, 3)


def test_a_slot_stays_in_place_of_one_that_failed(ship):
    ship.launch(2)
    ship.send("a", "b", is_long=True)
    wait_until(lambda: len(ship.done) == 2)
    ship.model.may_warm.clear()
    ship.model.failures.append(RuntimeError("no streams"))
    ship.resize(3)
    wait_until(lambda: len(ship.model.warm_ups) == 2)
    ship.resize(2)
    ship.wait_report(2, 2)
    ship.model.may_warm.set()
    wait_until(lambda: any(report.error for report in ship.reports))
    assert ship.last == (2, 2, 2)
    for event in ship.running.values():
        event.set()
    ship.send("c", "d", is_long=True)
    wait_until(lambda: len(ship.done) == 4)


def test_an_engine_context_that_fails_is_a_slot_that_fails(ship):
    @contextmanager
    def refuse():
        raise OSError("no device")
        yield

    ship.launch()
    ship.engine.slot_context = refuse
    ship.resize(2)
    ship.wait_report(1, 1)
    assert ship.reports[-1].error == "OSError: no device"


def test_the_resident_memory_is_read_in_bytes(tmp_path: Path) -> None:
    assert resident_bytes() > 1 << 20
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmRSS:\t   12 kB\n")
    assert resident_bytes(status) == 12 << 10
    status.write_text("Name:\tx\n")
    assert resident_bytes(status) == 0
    assert resident_bytes(tmp_path / "none") == 0

"""The inbox: one thread reads at a time, every slot gets work once, and somebody always reads."""

from __future__ import annotations

import queue
import threading
import time

import pytest
from frame.worker.inbox import Inbox

from tests.unit.worker_rig import wait_until

DEADLINE = 10.0


class Source:
    """A socket of work: what is put into it is read by whoever reads."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[list[str | None]] = queue.Queue()
        self._reading = threading.Lock()
        self.readers: list[str] = []
        self.is_closed = False
        self.inbox: Inbox[str] = Inbox(self.read)

    def put(self, *work: str | None) -> None:
        """Send work in one message."""
        self._waiting.put(list(work))

    def read(self, timeout: float | None) -> list[str | None]:
        if self.is_closed:
            raise ConnectionResetError
        assert self._reading.acquire(blocking=False), "two threads read"
        try:
            self.readers.append(threading.current_thread().name)
            return self._waiting.get(timeout=DEADLINE if timeout is None else max(timeout, 0.001))
        except queue.Empty:
            return []
        finally:
            self._reading.release()


def start(action, name="slot"):
    thread = threading.Thread(target=action, name=name, daemon=True)
    thread.start()
    return thread


def join(*threads):
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_work_comes_in_its_order():
    source = Source()
    source.put("a", "b", "c")
    source.put()
    source.put("d")
    assert [source.inbox.get() for _ in range(4)] == ["a", "b", "c", "d"]


def test_nothing_in_time_is_a_timeout():
    source = Source()
    with pytest.raises(TimeoutError):
        source.inbox.get(0.0)
    with pytest.raises(TimeoutError):
        source.inbox.get(0.01)
    source.put("late")
    assert source.inbox.get(0.0) == "late"


def test_each_slot_gets_work_once_and_each_its_end():
    source, got, lock = Source(), [], threading.Lock()

    def slot():
        while (work := source.inbox.get()) is not None:
            with lock:
                got.append(work)

    slots = [start(slot, f"slot-{number}") for number in range(4)]
    for number in range(100):
        source.put(f"{2 * number}", f"{2 * number + 1}")
    source.put(None, None, None, None)
    join(*slots)
    assert sorted(got, key=int) == [str(number) for number in range(200)]


def test_a_slot_that_waits_takes_over_reading_when_the_reader_has_work():
    source, got, go_on = Source(), [], threading.Event()

    def slot():
        work = source.inbox.get()
        got.append(work)
        if work == "long":
            assert go_on.wait(DEADLINE)

    slots = [start(slot), start(slot)]
    source.put("long")
    wait_until(lambda: got == ["long"])
    source.put("short")
    wait_until(lambda: got == ["long", "short"])
    go_on.set()
    join(*slots)


def test_while_every_slot_is_busy_the_helper_reads():
    source = Source()

    def help_until_closed():
        with pytest.raises(ConnectionResetError):
            source.inbox.help()

    helper = start(help_until_closed, "helper")
    source.put("first")
    assert source.inbox.get() == "first"
    source.put("second")
    wait_until(lambda: "helper" in source.readers)
    assert source.inbox.get(DEADLINE) == "second"
    source.is_closed = True
    join(helper)


def test_a_wait_for_a_condition_reads_the_message_that_makes_it_true():
    source = Source()
    granted = []

    def read(timeout):
        found = source.read(timeout)
        granted.extend(item for item in found if item == "credit")
        return [item for item in found if item != "credit"]

    inbox: Inbox[str] = Inbox(read)
    source.put("work")
    source.put("credit")
    inbox.wait_for(lambda: bool(granted), DEADLINE)
    assert granted == ["credit"]
    assert inbox.get(0.0) == "work"


def test_a_wait_for_a_condition_ends_when_its_time_is_over():
    started = time.monotonic()
    Source().inbox.wait_for(lambda: False, 0.05)
    assert time.monotonic() - started >= 0.05


def test_a_wait_for_a_condition_that_is_true_reads_nothing():
    source = Source()
    source.inbox.wait_for(lambda: True, DEADLINE)
    assert source.readers == []


def test_a_failed_read_frees_the_place_of_the_reader():
    calls = []

    def read(timeout):
        calls.append(timeout)
        if len(calls) == 1:
            message = "connection lost"
            raise OSError(message)
        return ["work"]

    inbox: Inbox[str] = Inbox(read)
    with pytest.raises(OSError, match="connection lost"):
        inbox.get()
    assert inbox.get() == "work"

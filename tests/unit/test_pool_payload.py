"""Bodies, streams and byte budgets on their way through the router."""

from __future__ import annotations

import os

import pytest
from frame.pool.budget import ByteBudget
from frame.pool.jobs import JobStream, StreamBrokenError, StreamStalledError
from frame.pool.payload import Payload
from frame.testing import FakeClock
from frame.wire.messages import INITIAL_CREDITS
from frame.wire.parts import MEMFD_BYTES, map_memfd
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_rig import TimedLoop

# --- payloads -------------------------------------------------------------------------------------


def received(payload: Payload) -> bytes:
    """Return what a worker gets of a payload."""
    if payload.descriptor < 0:
        return b"".join(payload.segments)
    return bytes(map_memfd(os.dup(payload.descriptor), payload.size_bytes))


@given(st.lists(st.sampled_from([b"", b"x", b"y" * 1000, b"z" * (MEMFD_BYTES // 2)]), max_size=6))
def test_a_worker_gets_the_pieces_in_their_order(pieces):
    payload = Payload()
    for piece in pieces:
        payload.add(piece)
    payload.finish()
    whole = b"".join(pieces)
    assert payload.size_bytes == len(whole)
    assert received(payload) == whole
    assert b"".join(payload.read_segments()) == whole
    assert (payload.descriptor >= 0) == (len(whole) >= MEMFD_BYTES)
    assert payload.descriptor < 0 or payload.segments == []


@pytest.mark.parametrize("size", [1, 2, 511])
def test_tiny_pieces_take_the_memory_of_their_bytes(size):
    payload = Payload(b"first")
    count = 500_000 // size
    for _ in range(count):
        payload.add(b"x" * size)
    assert received(payload) == b"first" + b"x" * size * count
    assert len(payload.segments) < 10
    payload.close()


def test_a_piece_is_kept_as_it_came_below_the_limit_and_moved_at_it():
    piece = b"x" * (MEMFD_BYTES - 1)
    payload = Payload(piece)
    assert payload.segments[0] is piece
    payload.add(b"y")
    assert payload.segments == []
    payload.finish()
    assert received(payload) == piece + b"y"
    payload.close()


def test_a_closed_payload_holds_nothing_and_may_be_closed_again():
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is needed
    large, small = Payload(b"x" * MEMFD_BYTES), Payload(b"x")
    for payload in (large, small, large, small):
        payload.close()
    assert small.segments == large.segments == []
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_budget_gives_no_more_than_its_limit():
    budget = ByteBudget(10)
    assert budget.take(10)
    assert not budget.take(1)
    assert budget.take(0)
    budget.give_back(4)
    assert not budget.take(5)
    assert budget.take(4)
    with pytest.raises(AssertionError):
        budget.give_back(11)


# --- streams --------------------------------------------------------------------------------------


class Reader:
    """A stream, and what it told its worker."""

    def __init__(self) -> None:
        self.loop = TimedLoop(FakeClock(100.0))
        self.told: list[str] = []
        self.stream = JobStream(lambda: self.told.append("grant"), lambda: self.told.append("cancel"))

    def next(self, timeout=5.0):
        return self.loop.run_until_complete(self.stream.next(timeout))

    def start_next(self, timeout=5.0):
        """Begin to wait for a chunk."""
        task = self.loop.create_task(self.stream.next(timeout))
        self.loop.settle()
        return task


@pytest.fixture
def reader():
    made = Reader()
    yield made
    made.loop.close()


def test_chunks_come_in_their_order_each_with_a_credit_for_the_next(reader):
    for number in range(3):
        reader.stream.push(b"%d" % number)
    assert reader.told == []
    assert [reader.next() for _ in range(3)] == [b"0", b"1", b"2"]
    assert reader.told == ["grant"] * 3


def test_a_reader_that_waits_is_woken_by_a_chunk_or_by_the_end(reader):
    waiting = reader.start_next()
    assert not waiting.done()
    reader.stream.push(b"late")
    reader.loop.settle()
    assert waiting.result() == b"late"
    waiting = reader.start_next()
    reader.stream.end()
    reader.loop.settle()
    assert waiting.result() is None


def test_what_came_before_the_end_is_read_before_it(reader):
    reader.stream.push(b"last")
    reader.stream.end("model broke")
    assert reader.next() == b"last"
    for _ in range(2):
        with pytest.raises(StreamBrokenError, match="model broke"):
            reader.next()


def test_the_first_end_counts(reader):
    reader.stream.end("first")
    reader.stream.end("")
    with pytest.raises(StreamBrokenError, match="first"):
        reader.next()


def test_a_stream_that_stands_still_for_too_long_is_an_error_and_can_go_on(reader):
    waiting = reader.start_next(timeout=5.0)
    reader.loop.advance(4.9)
    assert not waiting.done()
    reader.loop.advance(0.2)
    with pytest.raises(StreamStalledError, match="no chunk for 5 s"):
        waiting.result()
    reader.stream.push(b"after all")
    assert reader.next() == b"after all"


def test_a_closed_stream_tells_its_worker_once_and_wakes_its_reader(reader):
    waiting = reader.start_next()
    reader.stream.push(b"unread")
    reader.stream.close()
    reader.stream.close()
    reader.loop.settle()
    assert reader.told == ["cancel"]
    assert waiting.done()
    assert waiting.result() is None
    assert reader.next() is None


def test_a_stream_that_has_ended_needs_no_cancel(reader):
    reader.stream.end()
    reader.stream.close()
    assert reader.told == []


def test_a_stream_waits_for_its_reader_when_all_credits_are_used(reader):
    for _ in range(INITIAL_CREDITS - 1):
        reader.stream.push(b"x")
    assert not reader.stream.waits_for_reader
    reader.stream.push(b"x")
    assert reader.stream.waits_for_reader
    reader.next()
    assert not reader.stream.waits_for_reader

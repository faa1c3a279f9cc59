"""Workers' output in the log: line by line, nothing lost, whatever its size, split or encoding."""

from __future__ import annotations

import asyncio
import logging

import pytest
from frame.pool.logs import TAIL_LINES, LogDrain
from hypothesis import given
from hypothesis import strategies as st


def drained(*chunks: bytes) -> LogDrain:
    """Return a drain that has read the chunks, one at a time."""
    drain = LogDrain("m/1")

    async def feed() -> None:
        stream = asyncio.StreamReader()
        task = asyncio.ensure_future(drain.drain(stream))
        for chunk in chunks:
            stream.feed_data(chunk)
            await asyncio.sleep(0)  # lets the drain take this chunk by itself
        stream.feed_eof()
        await asyncio.wait_for(task, 5)

    asyncio.run(feed())
    return drain


def test_lines_are_logged_with_their_model_and_worker(caplog):
    with caplog.at_level(logging.INFO, "frame.worker.output"):
        drained(b"one\ntw", b"o\r\n\n  \nthree")
    assert caplog.messages == ["[m/1] one", "[m/1] two", "[m/1] three"]


@pytest.mark.parametrize("size", [8191, 8192, 8193, 32_769, 60_000, 200_001])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_very_long_line_is_cut_into_pieces_and_not_lost(size, end):
    line = (b"0123456789" * (size // 10 + 1))[:size]
    pieces = list(drained(line + end).tail)
    assert "".join(pieces).encode() == line
    assert all(len(piece) <= 8192 for piece in pieces)


@given(st.lists(st.sampled_from(["é", "漢", "😀", "a"]), max_size=30), st.integers(1, 7))
def test_characters_are_whole_however_the_output_is_split(characters, step):
    text = "".join(characters)
    data = text.encode()
    found = drained(*(data[start : start + step] for start in range(0, len(data), step)))
    assert "".join(found.tail) == text


@pytest.mark.parametrize("shift", range(4))
def test_a_long_line_is_cut_between_characters(shift):
    text = "a" * shift + "😀" * 10_000
    pieces = list(drained(text.encode()).tail)
    assert "".join(pieces) == text
    assert len(pieces) > 1


def test_bytes_that_are_no_text_are_shown_as_such_and_stop_nothing():
    assert list(drained(b"\xff\xfe\nnext\n").tail) == ["\ufffd\ufffd", "next"]
    assert "".join(drained(b"\x80" * 20_000).tail) == "\ufffd" * 20_000


def test_only_the_last_lines_are_remembered():
    drain = drained(b"".join(b"%d\n" % number for number in range(100)))
    assert list(drain.tail) == [str(number) for number in range(100 - TAIL_LINES, 100)]

"""Frames come out of a byte stream as they went in, however it is split, and never larger than announced."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from frame.wire.frames import (
    DIRECT_BYTES,
    HEADER,
    MAX_BODY_BYTES,
    MAX_FDS,
    MAX_HEAD_BYTES,
    WIRE_VERSION,
    Frame,
    FrameDecoder,
    WireError,
    frame_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

BODY_SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, 3 * DIRECT_BYTES]),
)


def body_of(size: int, seed: int) -> bytes:
    """Bytes that show a shift, a gap or a swap."""
    pattern = bytes((seed + 31 * index) % 256 for index in range(251))
    return (pattern * (size // len(pattern) + 1))[:size]


def plain(frame: Frame) -> tuple[int, bytes, bytes, int]:
    return frame.kind, frame.head, bytes(frame.body), frame.fd_count


class Stream(RuleBasedStateMachine):
    """A sender writes frames, a receiver takes any number of bytes as `Channel` does."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = FrameDecoder()
        self.wire = bytearray()
        self.sent: deque[tuple[int, bytes, bytes, int]] = deque()

    @rule(
        kind=st.integers(0, 255),
        head=st.binary(max_size=60),
        size=BODY_SIZES,
        fd_count=st.integers(0, MAX_FDS),
    )
    def send(self, kind: int, head: bytes, size: int, fd_count: int) -> None:
        body = body_of(size, len(head))
        self.wire += frame_header(kind, head, size, fd_count) + body
        self.sent.append((kind, head, body, fd_count))

    @precondition(lambda self: self.wire)
    @rule(size=st.one_of(st.integers(1, 30), st.integers(1, 4 * DIRECT_BYTES)))
    def receive(self, size: int) -> None:
        direct = self.decoder.direct_buffer()
        if direct is None:
            piece, self.wire = self.wire[:size], self.wire[size:]
            frames = self.decoder.feed(piece)
        else:
            assert len(direct) >= DIRECT_BYTES
            size = min(size, len(direct), len(self.wire))
            direct[:size] = self.wire[:size]
            self.wire = self.wire[size:]
            frames = self.decoder.received_directly(size)
        for frame in frames:
            assert plain(frame) == self.sent.popleft()
            assert frame.body.readonly

    @invariant()
    def every_frame_whose_bytes_came_is_out(self) -> None:
        if not self.wire:
            assert not self.sent


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30), st.binary(max_size=30)), max_size=6),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_frames_do_not_depend_on_how_the_stream_was_split(frames, cuts):
    stream = b"".join(frame_header(kind, head, len(body)) + body for kind, head, body in frames)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = FrameDecoder()
    found = [frame for start, end in itertools.pairwise(bounds) for frame in decoder.feed(stream[start:end])]
    assert [plain(frame) for frame in found] == [(kind, head, body, 0) for kind, head, body in frames]


@given(st.binary(max_size=200), st.integers(1, 40))
def test_any_bytes_are_frames_or_refused_without_a_buffer_over_the_limit(data, step):
    decoder = FrameDecoder(max_body_bytes=64)
    try:
        frames = [
            frame for start in range(0, len(data), step) for frame in decoder.feed(data[start : start + step])
        ]
    except WireError:
        return
    assert all(len(frame.body) <= 64 for frame in frames)


def header(version=WIRE_VERSION, fd_count=0, head_bytes=0, body_bytes=0) -> bytes:
    return HEADER.pack(version, 1, fd_count, head_bytes, body_bytes)


@pytest.mark.parametrize(
    "wrong",
    [
        header(version=WIRE_VERSION + 1),
        header(version=0),
        header(fd_count=MAX_FDS + 1),
        header(head_bytes=MAX_HEAD_BYTES + 1),
        header(body_bytes=MAX_BODY_BYTES + 1),
    ],
)
def test_a_header_over_a_limit_is_refused_as_soon_as_it_is_complete(wrong):
    decoder = FrameDecoder()
    assert decoder.feed(wrong[:-1]) == []
    with pytest.raises(WireError):
        decoder.feed(wrong[-1:])


def test_a_header_within_the_limits_is_taken():
    for right in (header(fd_count=MAX_FDS), header(head_bytes=MAX_HEAD_BYTES)):
        FrameDecoder().feed(right)
    assert len(FrameDecoder(max_body_bytes=8).feed(header(body_bytes=8) + b"12345678")) == 1
    with pytest.raises(WireError, match="body=9"):
        FrameDecoder(max_body_bytes=8).feed(header(body_bytes=9))


def test_the_bodys_buffer_is_made_only_when_the_head_is_here():
    decoder = FrameDecoder()
    start = frame_header(1, b"head", 2 * DIRECT_BYTES)
    assert decoder.feed(start[:-1]) == []
    assert decoder.direct_buffer() is None
    assert decoder.feed(start[-1:]) == []
    direct = decoder.direct_buffer()
    assert direct is not None
    assert len(direct) == 2 * DIRECT_BYTES


def test_a_bodys_view_outlives_its_decoder_and_later_frames():
    decoder = FrameDecoder()
    first = decoder.feed(frame_header(1, b"", 3) + b"abc")[0]
    decoder.feed(frame_header(1, b"", 3) + b"xyz")
    del decoder
    assert bytes(first.body) == b"abc"

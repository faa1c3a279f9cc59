"""Large parts travel as sealed memfds: what was written is mapped, and nothing that could still change."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from frame.wire.parts import append, map_all, map_memfd, memfd_of, open_memfd, seal
from hypothesis import given
from hypothesis import strategies as st


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5).filter(any))
def test_segments_are_mapped_as_one_part_and_cannot_be_written(segments):
    size = sum(map(len, segments))
    view = map_memfd(memfd_of(segments), size)
    assert bytes(view) == b"".join(segments)
    assert view.readonly


def test_segments_of_wider_items_are_written_whole():
    view = map_memfd(memfd_of([memoryview(bytearray(range(16))).cast("I")]), 16)
    assert bytes(view) == bytes(range(16))


def test_a_sealed_part_can_no_longer_be_written():
    descriptor = memfd_of([b"final"])
    with pytest.raises(PermissionError):
        os.write(descriptor, b"more")
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


@pytest.mark.parametrize(("is_sealed", "announced"), [(False, 4), (True, 5), (True, 3)])
def test_an_unsealed_part_or_a_wrong_length_is_refused_and_closed(is_sealed, announced):
    before = open_descriptors()
    descriptor = open_memfd()
    append(descriptor, b"1234")
    if is_sealed:
        seal(descriptor)
    with pytest.raises(ValueError, match="part is not"):
        map_memfd(descriptor, announced)
    assert open_descriptors() == before


def test_something_that_is_no_memfd_is_refused_and_closed(tmp_path):
    (tmp_path / "file").write_bytes(b"1234")
    before = open_descriptors()
    with pytest.raises(OSError, match="Invalid argument"):
        map_memfd(os.open(tmp_path / "file", os.O_RDONLY), 4)
    assert open_descriptors() == before


@pytest.mark.parametrize(("times", "is_sealed"), [(0, True), (1, True), (7, True), (8, False)])
def test_a_page_that_somebody_holds_for_a_moment_does_not_stop_the_seal(monkeypatch, times, is_sealed):
    failing = iter(range(times))

    def busy_at_first(*arguments):
        if arguments[1] == fcntl.F_ADD_SEALS and next(failing, None) is not None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return real(*arguments)

    real = fcntl.fcntl
    descriptor = open_memfd()
    append(descriptor, b"abc")
    monkeypatch.setattr(fcntl, "fcntl", busy_at_first)
    if is_sealed:
        seal(descriptor)
        assert bytes(map_memfd(descriptor, 3)) == b"abc"
        return
    with pytest.raises(OSError, match="busy"):
        seal(descriptor)
    os.close(descriptor)


def test_another_error_of_the_seal_is_not_tried_again():
    descriptor = open_memfd()
    seal(descriptor)
    with pytest.raises(PermissionError):
        seal(descriptor)
    os.close(descriptor)


def test_the_mapping_lives_as_long_as_its_last_view_and_no_longer():
    before = open_descriptors()
    view = map_memfd(memfd_of([b"kept"]), 4)
    inner = view[1:]
    del view
    assert bytes(inner) == b"ept"
    del inner
    assert open_descriptors() == before


def test_a_failed_segment_leaves_no_descriptor_behind():
    def segments():
        yield b"first"
        message = "the second piece never came"
        raise RuntimeError(message)

    before = open_descriptors()
    with pytest.raises(RuntimeError):
        memfd_of(segments())
    assert open_descriptors() == before


def test_several_parts_are_mapped_in_their_order():
    assert [bytes(view) for view in map_all([memfd_of([b"one"]), memfd_of([b"two"])])] == [b"one", b"two"]


def test_when_one_part_of_several_is_refused_all_are_closed():
    before = open_descriptors()
    unsealed = open_memfd()
    append(unsealed, b"x")
    with pytest.raises(ValueError, match="not sealed"):
        map_all([memfd_of([b"one"]), unsealed, memfd_of([b"three"]), memfd_of([b"four"])])
    assert open_descriptors() == before

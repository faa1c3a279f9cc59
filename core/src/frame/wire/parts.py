"""Large parts as sealed memfds: made by the sender, mapped by the receiver, freed with the last view."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

MEMFD_BYTES = 1 << 20
"""Parts from this size travel as a descriptor instead of through the socket (design, section 1)."""
_SEAL_TRIES = 8
"""EBUSY means that somebody holds a page: the reclaim of the kernel does, for a moment.

Each try waits up to 150 ms for it, in the kernel.
"""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def open_memfd() -> int:
    """Return a new descriptor to write a part's bytes to; the caller closes it."""
    return os.memfd_create("frame-part", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def append(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` at the end of what was written."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def seal(descriptor: int) -> None:
    """Make the bytes final, so that the receiver may map them without a copy.

    Raises:
        OSError: the kernel would not.
    """
    tries_left = _SEAL_TRIES
    while tries_left := tries_left - 1:
        if _try_to_seal(descriptor):
            return
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def _try_to_seal(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def memfd_of(segments: Iterable[bytes | bytearray | memoryview]) -> int:
    """Return a sealed descriptor that holds `segments`; the caller closes it."""
    with ExitStack() as undo:
        descriptor = open_memfd()
        undo.callback(os.close, descriptor)
        for segment in segments:
            append(descriptor, segment)
        seal(descriptor)
        undo.pop_all()
    return descriptor


class SealedMap(mmap.mmap):
    """A mapped part that can be passed on: the `obj` of its view.

    Invariant: `descriptor` is open as long as it lives; -1 when it cannot be passed on.
    """

    descriptor = -1

    def __del__(self) -> None:
        """Close the descriptor with the last view."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def map_all(descriptors: Sequence[int], *, keeps: bool = False) -> list[memoryview]:
    """Map received descriptors and close all of them, whatever happens.

    Args:
        keeps: as `map_memfd`.

    Raises:
        ValueError: one is not sealed.
    """
    left = list(descriptors)
    views: list[memoryview] = []
    try:
        while left:
            descriptor = left.pop(0)
            views.append(map_memfd(descriptor, os.fstat(descriptor).st_size, keeps=keeps))
    finally:
        for descriptor in left:
            os.close(descriptor)
    return views


def map_memfd(descriptor: int, size_bytes: int, *, keeps: bool = False) -> memoryview:
    """Map a received descriptor read-only and close it; the mapping lives as long as the view.

    Args:
        keeps: the view's `obj` is a `SealedMap`: the part can be passed on without a copy.

    Raises:
        ValueError: it is not sealed, or not as long as announced.
    """
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("part is not sealed")
        if os.fstat(descriptor).st_size != size_bytes:
            raise ValueError("part is not as long as announced")
        mapped = SealedMap(descriptor, size_bytes, prot=mmap.PROT_READ)
        if keeps:
            mapped.descriptor = os.dup(descriptor)
        return memoryview(mapped)
    finally:
        os.close(descriptor)

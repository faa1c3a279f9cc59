"""What keeps the ranks of a group in step: rank 0 says what it is about to do, before it does it.

`Slot`, `run_streams` and `SequenceDriver` wrap each call of the model that all ranks have to make in
`lockstep.act(…)`. In a group of one rank that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType

from frame.wire.records import Act, Record, pack

ENDS_ON_ERROR: ContextVar[bool] = ContextVar("frame_ends_on_error", default=False)
"""Whether an exception of the model must leave `predict`: one rank alone may not go on from it.

Set by `Slot`, read by `stacking`.
"""
_NOTHING: AbstractContextManager[None] = nullcontext()


class Lockstep:
    """A group of one rank: there is nobody to tell. Has no state, so any thread may call it."""

    spans_ranks = False
    """Whether other ranks follow."""
    progress = 0
    """Acts begun plus acts ended; equal on ranks that keep up."""

    def act(
        self, act: Act, number: int = 0, *, seed: int = 0, digest: int = 0
    ) -> AbstractContextManager[None]:
        """Tell the other ranks to do what is done inside of the returned context."""
        del act, number, seed, digest
        return _NOTHING

    def tell(self, act: Act, number: int = 0) -> None:
        """Tell the other ranks of what needs no call of the model here."""
        with self.act(act, number):
            pass


ALONE = Lockstep()


class Leader(Lockstep):
    """Rank 0 of several. One thread calls `act`; any thread may read `progress`."""

    spans_ranks = True

    def __init__(self, send: Callable[[bytes], None]) -> None:
        """Wrap `send`, which takes a record's bytes to every other rank, in order."""
        self._send = send
        self._running = _Running(self)
        self.progress = 0

    def act(
        self, act: Act, number: int = 0, *, seed: int = 0, digest: int = 0
    ) -> AbstractContextManager[None]:
        """Send the record."""
        self._send(pack(Record(act=act, number=number, seed=seed, digest=digest)))
        self.progress += 1
        return self._running


class _Running:
    """Counts the act as ended, whatever came of it."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def __enter__(self) -> None:
        """Nothing: the act was counted when it was told."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._leader.progress += 1

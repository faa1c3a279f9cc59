"""What keeps the ranks of a group in step: rank 0 says what it is about to do, before it does it.

`Slot`, `run_streams` and `SequenceDriver` wrap each call of the model that all ranks have to make in
`lockstep.act(…)`, and say what came of it by `lockstep.settle(…)` where something failed or ended. Rank 0
begins nothing before the others have ended what was before, as it did: else a collective call that one rank
left by an exception would pair with another's next one. Steps alone are compared later. In a group
of one rank all of that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType

from frame.wire.records import NOTHING_FAILED, UNANSWERED, UNKNOWN, Act, Record, pack

ENDS_ON_ERROR: ContextVar[bool] = ContextVar("frame_ends_on_error", default=False)
"""Whether an exception of the model must leave `predict`: one rank alone may not go on from it.

Set by `Slot`, read by `stacking`.
"""
_NOTHING: AbstractContextManager[None] = nullcontext()


class DivergenceError(Exception):
    """A rank does not have, or did not do, what rank 0 did: the group cannot go on."""


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

    def settle(self, outcome: int = NOTHING_FAILED) -> None:
        """Wait until the other ranks have ended the last act, and hold that it came to the same on all."""

    def tell(self, act: Act, number: int = 0) -> None:
        """Tell the other ranks of what needs no call of the model here."""
        with self.act(act, number):
            pass


ALONE = Lockstep()


class Leader(Lockstep):
    """Rank 0 of several. One thread calls `act` and `settle`; any thread may read `progress`."""

    spans_ranks = True

    def __init__(self, send: Callable[[bytes], None], receive: Callable[[], Sequence[int]]) -> None:
        """Wrap a link.

        Args:
            send: takes a record's bytes to every other rank, in order.
            receive: returns the outcome of the last act that asks for one, of every other rank.
        """
        self._send = send
        self._receive = receive
        self._running = _Running(self)
        self._last: Record | None = None
        self.progress = 0

    def act(
        self, act: Act, number: int = 0, *, seed: int = 0, digest: int = 0
    ) -> AbstractContextManager[None]:
        """Send the record, once the other ranks have ended what was before.

        Raises:
            LinkError: a rank is lost, or does not end.
            DivergenceError: on a rank the act before came to something else than here.
        """
        self.settle()
        record = Record(act=act, number=number, seed=seed, digest=digest)
        self._send(pack(record))
        self._last = None if act in UNANSWERED else record
        self.progress += 1
        return self._running

    def settle(self, outcome: int = NOTHING_FAILED) -> None:
        """Compare the outcome of the last act, if that was not done yet. Raises as `act`."""
        if self._last is None:
            return
        last, self._last = self._last, None
        for rank, found in enumerate(self._receive(), start=1):
            if found not in {outcome, UNKNOWN}:
                raise DivergenceError(
                    f"{last.act.name} {last.number} failed or ended on rank 0 or on rank {rank} alone: "
                    f"outcome {outcome:#x} here, {found:#x} there"
                )


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

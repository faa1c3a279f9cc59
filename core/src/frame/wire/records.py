"""What rank 0 and the other ranks of its group tell each other: records of a fixed size, and their outcomes.

Rank 0 sends records, in the order of what it does:

    offset  size  field
    0       1     act, see `Act`
    1       8     number of the batch or of the job that it is about, 0 for none
    9       8     seed of the batch or the job, 0 where none is needed
    17      8     digest of the step before, for STEP and VERIFY

The others send an outcome, 8 bytes, for each record but STEP and STOP when they have done it: 0 when nothing
failed, `ENDED` for a stream without another chunk, `UNKNOWN` where there was nothing to do, else
`outcome_of` the jobs that failed.

Numbers are big-endian. Pure: bytes in, records out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from frame.wire.frames import WireError

RECORD = struct.Struct("!BQQQ")
OUTCOME = struct.Struct("!Q")
NOTHING_FAILED = 0
ENDED = 1
UNKNOWN = 2
_FAILED = 1 << 32


class Act(IntEnum):
    """What all ranks do next.

    The number is a batch's for RUN, else a job's; STEP, VERIFY and STOP have none.
    """

    RUN = 1
    """Call `predict` with the jobs of a batch that were not dropped."""
    DROP = 2
    """Forget a job that is not going to begin."""
    ADVANCE = 3
    """Take the next chunk of a job's stream."""
    CLOSE = 4
    """Close a job's stream."""
    ADMIT = 5
    """Let a job join a `SequenceModel`."""
    STEP = 6
    """Take one step of a `SequenceModel`."""
    CANCEL = 7
    """Drop a job of a `SequenceModel`."""
    STOP = 8
    """End: there will be no more work."""
    VERIFY = 9
    """Compare the last step of a `SequenceModel` now, since it ended a job."""


_ACTS = {int(act): act for act in Act}
UNANSWERED = frozenset({Act.STEP, Act.STOP})
"""A step's tokens are compared by its digest, one step later: waiting for all ranks would cost each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One act; every number is from 0 to 2**64 - 1."""

    act: Act
    number: int = 0
    seed: int = 0
    digest: int = 0


def pack(record: Record) -> bytes:
    """Return the record's bytes."""
    return RECORD.pack(record.act, record.number, record.seed, record.digest)


def outcome_of(failed: Sequence[int]) -> int:
    """Return the outcome of an act that failed these jobs, in the order of their batch."""
    return _FAILED | zlib.crc32(struct.pack(f"!{len(failed)}Q", *failed)) if failed else NOTHING_FAILED


class RecordDecoder:
    """Cut a byte stream into records, however it was split."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes of the stream and return the records that they complete.

        Raises:
            WireError: an act that does not exist.
        """
        pending = self._pending + data
        whole = len(pending) - len(pending) % RECORD.size
        self._pending = pending[whole:]
        return [_record(*fields) for fields in RECORD.iter_unpack(pending[:whole])]


def _record(act: int, number: int, seed: int, digest: int) -> Record:
    known = _ACTS.get(act)
    if known is None:
        raise WireError(f"unknown record {act}")
    return Record(act=known, number=number, seed=seed, digest=digest)

"""What one call of `predict` spent where; filled by `stacking`, read by the slot that made the call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class BatchStats:
    """Seconds of one batch, and the number of model calls it took (> 1: the batch was split)."""

    decode: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    calls: int = 0


BATCH_STATS: ContextVar[BatchStats | None] = ContextVar("frame_batch_stats", default=None)

"""Which batches of a group that ended may have been the cause."""

from __future__ import annotations

BLAMELESS_ENDS = frozenset({"drained"})
"""Ends that were asked for: whatever ran then had no part in it."""
HANGS = frozenset({"hung", "overdue"})
"""Ends of a group whose process was there: only what ran for too long had a part in it.

Not `stalled`: a request that lets one rank alone fail or wait does so again in the next group.
"""


def is_blamed(kind: str, *, has_started: bool, is_hung: bool, any_hung: bool) -> bool:
    """Tell whether a batch of an ended group counts the end as a death of its jobs.

    Args:
        kind: of the end, as `GroupEnd.kind`.
        has_started: a slot ran the batch; one that waited in the worker for its turn cannot be to blame.
        is_hung: the batch ran for longer than it may.
        any_hung: some batch of the group did: then it alone is to blame, and not its slot's neighbours.
    """
    if kind in BLAMELESS_ENDS or not has_started:
        return False
    return is_hung or (kind not in HANGS and not any_hung)

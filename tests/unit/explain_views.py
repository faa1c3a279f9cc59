"""Views of made-up models for the tests of explanations."""

from __future__ import annotations

from typing import Any

from frame.policy.batching import BatchLimits
from frame.policy.explain_view import BatchTimes, ExplainView
from frame.policy.records import BatchRecord, Journal
from frame.policy.scaling import ScalingLimits

NOW = 1000.0


def batch(**changes: Any) -> BatchRecord:
    """Return a batch that left full with one request while four waited, but for `changes`."""
    facts: dict[str, Any] = {
        "at": NOW - 5.0,
        "size": 1,
        "cost": 1,
        "why": "full",
        "waited": 0.08,
        "left": 4,
        "batch_size": 1,
        "max_delay": 0.1,
        "busy": 1,
        "workers": 1,
        "seconds": 0.02,
        "compute": 0.018,
    }
    return BatchRecord(**(facts | changes))


def view(*batches: BatchRecord, **changes: Any) -> ExplainView:
    """Return a model with one worker of at most one, and with these batches."""
    journal = Journal()
    journal.batches.extend(batches)
    facts: dict[str, Any] = {
        "now": NOW,
        "journal": journal,
        "times": BatchTimes(measured={1: 0.0204, 2: 0.0226, 4: 0.0269}, base=0.0181, per_item=0.0022),
        "limits": BatchLimits(batch_size=1, max_delay=0.1),
        "is_adaptive": False,
        "scaling": ScalingLimits(minimum=1, maximum=1, max_idle=60.0),
        "workers": 1,
        "starting": 0,
        "queued": 4,
        "cpu_workers": None,
        "requests": 0,
        "request_seconds": 0.0,
        "queue_seconds": 0.0,
        "ends": {},
        "held": 0,
        "quarantine_time": 300.0,
        "failure": None,
    }
    return ExplainView(**(facts | changes))

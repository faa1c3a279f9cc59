"""What is told of workers that were wanted and did not come."""

from __future__ import annotations

from frame.policy.explain import explain
from frame.policy.explain_view import ExplainView
from frame.policy.records import ScaleRecord

from tests.unit.explain_views import NOW, view


def texts(model: ExplainView, about: str) -> list[str]:
    return [sentence.text for sentence in explain(model).sentences if sentence.about == about]


def test_workers_that_were_wanted_and_not_added_are_told_with_what_kept_them_away():
    model = view(workers=1)
    model.journal.held_back = ScaleRecord(
        at=NOW - 4,
        before=1,
        target=1,
        reason="9 requests wait; 3 wanted, the CPU threads that are left allow 1",
    )
    assert texts(model, "workers")[-1] == (
        "4 s ago more workers than 1 were wanted and none was added: 9 requests wait; 3 wanted, "
        "the CPU threads that are left allow 1."
    )
    model.journal.held_back = ScaleRecord(at=NOW - 1000, before=1, target=1, reason="long ago")
    assert "long ago" not in " ".join(texts(model, "workers"))

"""What the policies did, why, and what would change it: an account in sentences, each with its figures."""

from __future__ import annotations

from frame.policy.explain_advice import advise
from frame.policy.explain_batches import batch_sentences, time_sentences
from frame.policy.explain_view import ExplainView, Explanation, Sentence
from frame.policy.explain_workers import death_sentences, worker_sentences


def explain(view: ExplainView) -> Explanation:
    """Explain a model from its records; every sentence and every advice has the figures that it states."""
    workers = [*worker_sentences(view), *death_sentences(view)]
    if not view.recent:
        nothing = Sentence("batches", "No batch was recorded yet: 0 requests were run.", {"batches": 0})
        return Explanation((nothing, *workers), ())
    advice, no_use = advise(view)
    return Explanation(
        (*batch_sentences(view), *time_sentences(view), *workers, *no_use),
        tuple(advice),
    )

"""Explanations as JSON and as plain words, for GET /models/{model}/explain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from frame.http.host import ExplainedModel
from frame.policy.explain import explain
from frame.policy.explain_view import Explanation, Sentence

if TYPE_CHECKING:
    from frame.policy.records import BatchRecord, ChoiceRecord, DeathRecord, ScaleRecord

_TITLES = {"batches": "Batches", "time": "Time", "workers": "Workers", "deaths": "Ends of workers"}


def explanation_body(model: ExplainedModel) -> dict[str, object]:
    """Return the JSON of an explanation: sentences and advice with their figures, and the records behind."""
    explanation = explain(model.view)
    journal, now = model.view.journal, model.view.now
    return {
        "model": model.name,
        "version": model.version,
        "sentences": [asdict(sentence) for sentence in explanation.sentences],
        "advice": [asdict(advice) for advice in explanation.advice],
        "batches": _records(model.view.recent, now),
        "scalings": _records(journal.scalings, now),
        "choices": _records(journal.choices, now),
        "deaths": _records(journal.deaths, now),
    }


def _records(
    records: Iterable[BatchRecord | ScaleRecord | ChoiceRecord | DeathRecord], now: float
) -> list[dict[str, object]]:
    """Return records, oldest first, with their age in place of a time that only this process knows."""
    shown = []
    for record in records:
        fields = asdict(record)
        shown.append({"seconds_ago": now - fields.pop("at"), **fields})
    return shown


def explanation_text(model: ExplainedModel) -> str:
    """Return an explanation in words, a sentence on each line."""
    version = "" if model.version is None else f", version {model.version}"
    return "\n".join((f"Model {model.name}{version}", *_lines(explain(model.view)), ""))


def _lines(explanation: Explanation) -> Iterator[str]:
    by_subject: dict[str, list[Sentence]] = {}
    for sentence in explanation.sentences:
        by_subject.setdefault(sentence.about, []).append(sentence)
    for about, sentences in by_subject.items():
        yield from ("", _TITLES[about], *(f"  {sentence.text}" for sentence in sentences))
    yield from ("", "Advice")
    if not explanation.advice:
        yield "  Nothing that was recorded speaks for other settings."
    for advice in explanation.advice:
        change = ", ".join(f"{key}={value}" for key, value in advice.change.items())
        yield from (f"  {change}", f"    {advice.text}")

"""Why workers were added or removed or not, and which ones died: in words."""

from __future__ import annotations

from collections.abc import Iterator

from frame.policy.explain_view import ExplainView, Sentence, count, span

_LAST = 5
"""Scalings and deaths that are told one by one."""
_HELD_SECONDS = 300.0
"""How long it is told that a worker was wanted and not added."""


def worker_sentences(view: ExplainView) -> Iterator[Sentence]:
    """Say how many workers there are and why."""
    limits = view.scaling
    starting = f", {view.starting} more starting" if view.starting else ""
    verb = "is" if view.workers == 1 else "are"
    figures: dict[str, float | str] = {
        "workers": view.workers,
        "starting": view.starting,
        "minWorkers": limits.minimum,
        "maxWorkers": limits.maximum,
    }
    text = (
        f"{count(view.workers, 'worker')} {verb} up{starting}; "
        f"minWorkers is {limits.minimum} and maxWorkers is {limits.maximum}."
    )
    yield Sentence("workers", text, figures)
    for record in list(view.journal.scalings)[-_LAST:]:
        ago = view.now - record.at
        text = (
            f"{span(ago)} ago their number was set from {record.before} to {record.target}: {record.reason}."
        )
        figures = {"seconds_ago": ago, "before": record.before, "target": record.target}
        yield Sentence("workers", text, figures)
    held = view.journal.held_back
    if held is not None and view.now - held.at <= _HELD_SECONDS:
        ago = view.now - held.at
        text = (
            f"{span(ago)} ago more workers than {held.target} were wanted and none was added: {held.reason}."
        )
        yield Sentence("workers", text, {"seconds_ago": ago, "workers": held.target})
    elif not any(record.before for record in view.journal.scalings):
        yield _unchanged(view)


def _unchanged(view: ExplainView) -> Sentence:
    """Say why no worker was added or removed."""
    limits = view.scaling
    figures: dict[str, float | str] = {
        "scalings": 0,
        "queued": view.queued,
        "minWorkers": limits.minimum,
        "maxWorkers": limits.maximum,
    }
    if limits.minimum == limits.maximum:
        text = f"No worker was added or removed because minWorkers and maxWorkers are both {limits.minimum}."
        return Sentence("workers", text, figures)
    text = f"No worker was added or removed: {count(view.queued, 'request')} wait now"
    if view.recent:
        busiest = max(record.busy for record in view.recent)
        longest = max(record.left for record in view.recent)
        figures |= {"most_busy": busiest, "longest_queue": longest}
        text += (
            f", and in the last {count(len(view.recent), 'batch', 'batches')} at most {busiest} were busy at "
            f"once while at most {longest} waited"
        )
    return Sentence("workers", f"{text}.", figures)


def death_sentences(view: ExplainView) -> Iterator[Sentence]:
    """Say which workers ended without being asked, and what became of their requests."""
    if view.failure is not None:
        text = f"The model is FAILED and takes no requests: {view.failure}."
        yield Sentence("deaths", text, {"reason": view.failure})
    ends = sum(view.ends.values())
    kinds = ", ".join(f"{number} {_words(kind)}" for kind, number in sorted(view.ends.items()))
    text = f"{count(ends, 'worker')} ended without being asked since the start: {kinds}."
    none = "No worker has ended without being asked since the start."
    yield Sentence("deaths", text if ends else none, {"ends": ends} | dict(view.ends))
    for record in list(view.journal.deaths)[-_LAST:]:
        ago = view.now - record.at
        fate = "it had no request"
        if record.jobs:
            fate = f"it had {count(record.jobs, 'request')}, to run again alone or to be answered 503"
        text = f"{span(ago)} ago a worker ended ({_words(record.kind)}): {record.cause}; {fate}."
        yield Sentence("deaths", text, {"seconds_ago": ago, "kind": record.kind, "requests": record.jobs})
    if view.held:
        verb = "is" if view.held == 1 else "are"
        text = (
            f"{count(view.held, 'request')} {verb} in quarantine: each ended two workers, and its content is "
            f"refused for quarantine_time ({span(view.quarantine_time)})."
        )
        yield Sentence("deaths", text, {"held": view.held, "quarantine_time": view.quarantine_time})


def _words(kind: str) -> str:
    """Write the kind of an end: `out_of_memory` as `out of memory`."""
    return kind.replace("_", " ")

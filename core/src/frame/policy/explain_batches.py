"""Why the last batches had their size and delay, and where a request's time went: in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from frame.policy.explain_view import ExplainView, Sentence, count, mean, span
from frame.policy.records import BatchRecord

_MOST_REASONS = 4


def batch_sentences(view: ExplainView) -> Iterator[Sentence]:
    """Say why the last batches left as they did, the most frequent reason first."""
    recent = view.recent
    kinds = Counter((record.why, _is_small(record), record.batch_size) for record in recent)
    for (why, is_small, size), _ in kinds.most_common(_MOST_REASONS):
        group = [
            record
            for record in recent
            if (record.why, _is_small(record), record.batch_size) == (why, is_small, size)
        ]
        yield _reason(view, group, len(recent))
    yield _wait(recent)
    if view.journal.choices:
        yield _choice(view)


def _is_small(record: BatchRecord) -> bool:
    """Whether a batch is below `batch_size`."""
    return record.size < record.batch_size


def _reason(view: ExplainView, group: Sequence[BatchRecord], of: int) -> Sentence:
    size = mean([record.size for record in group])
    left = mean([record.left for record in group])
    last = group[-1]
    figures = {
        "batches": len(group),
        "of": of,
        "mean_size": size,
        "mean_left": left,
        "batch_size": last.batch_size,
        "max_batch_delay_ms": last.max_delay * 1000,
    }
    head = f"{len(group)} of the last {count(of, 'batch', 'batches')}"
    behind = (
        f"; on average {count(left, 'request')} waited behind each" if left else "; no request waited behind"
    )
    return Sentence("batches", f"{head} {_why(view, last, size)}{behind}.", figures)


_REASONS = {
    "full": "left with {requests} because batch_size is {size}",
    "cost": "left with {requests} on average because max_batch_elements is {cost}",
    "apart": "left with {requests} on average, since those that waited could not join them",
    "delay over": "left with {requests} on average, below batch_size={size}, "
    "because the oldest had waited for max_batch_delay ({delay})",
    "no delay": "left with {requests} on average as soon as a worker was free, because max_batch_delay is 0",
    "closing": "left with {requests} on average without delay because the model is ending",
    "joins": "were single requests that joined a running model at once",
    "alone": "were a request that ran alone, because a worker had died with it inside",
}


def _why(view: ExplainView, last: BatchRecord, size: float) -> str:
    key = last.why
    if key == "full" and _is_small(last):
        key = "apart" if view.limits.max_cost is None else "cost"
    return _REASONS.get(key, f"left with {{requests}} on average: {key}").format(
        requests=count(size, "request"),
        size=last.batch_size,
        delay=span(last.max_delay),
        cost=view.limits.max_cost,
    )


def _wait(recent: Sequence[BatchRecord]) -> Sentence:
    waits = [record.waited for record in recent]
    company = mean([_for_company(record) for record in recent])
    worker = max(0.0, mean(waits) - company)
    text = (
        f"The oldest request of each of these batches waited {span(mean(waits))} on average and "
        f"{span(max(waits))} at most: {span(company)} on average for company (max_batch_delay) and "
        f"{span(worker)} for a free worker."
    )
    figures = {
        "mean_wait_seconds": mean(waits),
        "longest_wait_seconds": max(waits),
        "for_company_seconds": company,
        "for_worker_seconds": worker,
    }
    return Sentence("batches", text, figures)


def _for_company(record: BatchRecord) -> float:
    """Return the part of the wait that was for other requests; behind a full batch it is for a worker."""
    waits_to_fill = record.why == "full" and record.batch_size > 1 and not record.left
    if record.why == "delay over" or waits_to_fill:
        return min(record.waited, record.max_delay)
    return 0.0


def _choice(view: ExplainView) -> Sentence:
    last = view.journal.choices[-1]
    ago = view.now - last.at
    text = (
        f"{span(ago)} ago batching=adaptive chose batch_size={last.batch_size} and a delay of "
        f"{span(last.max_delay)}: {last.reason}."
    )
    figures = {
        "seconds_ago": ago,
        "batch_size": last.batch_size,
        "max_batch_delay_ms": last.max_delay * 1000,
        "choices": len(view.journal.choices),
    }
    return Sentence("batches", text, figures)


def time_sentences(view: ExplainView) -> Iterator[Sentence]:
    """Say where the time of a request went."""
    if view.requests:
        yield _whole(view)
    done = [record for record in view.recent if record.seconds is not None]
    if done:
        yield _inside(done)


def _whole(view: ExplainView) -> Sentence:
    inside = max(0.0, view.request_seconds - view.queue_seconds)
    text = (
        f"Since the start {count(view.requests, 'request')} took {span(view.request_seconds)} on average: "
        f"{span(view.queue_seconds)} in the queue, delay included, and {span(inside)} in a worker."
    )
    figures = {
        "requests": view.requests,
        "mean_seconds": view.request_seconds,
        "queue_seconds": view.queue_seconds,
        "worker_seconds": inside,
    }
    return Sentence("time", text, figures)


def _inside(done: Sequence[BatchRecord]) -> Sentence:
    """Say how a request's time in a worker divides; a batch counts as often as it has requests."""
    requests = sum(record.size for record in done)
    seconds = sum((record.seconds or 0.0) * record.size for record in done) / requests
    model = sum(record.compute * record.size for record in done) / requests
    rest = max(0.0, seconds - model)
    share = min(100.0, 100 * model / seconds) if seconds else 0.0
    text = (
        f"In the last {count(len(done), 'batch', 'batches')} that ended, a request was in its worker for "
        f"{span(seconds)} on average: {span(model)} ({share:.0f} %) in the model's call and {span(rest)} for "
        "the rest, which is decoding, encoding and the way between the processes."
    )
    figures = {
        "batches": len(done),
        "worker_seconds": seconds,
        "model_seconds": model,
        "rest_seconds": rest,
    }
    return Sentence("time", text, figures)

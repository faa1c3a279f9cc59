"""What would change latency or throughput: settings, with what is predicted of them and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from frame.policy.explain_view import RECENT, Advice, ExplainView, Sentence, count, mean, rate, span
from frame.policy.records import BatchRecord

MOST_BATCH_SIZE = 256
FURTHEST = 4
"""Times the largest measured batch: further the line through the measured times is not trusted."""
FILLED = 0.5
"""Part of the requests that were there at once that a batch may be: as many gather while it runs."""
WORTHWHILE = 1.1
"""Gain below which a change is not advised."""
OFTEN = 0.5
ENOUGH = 10
"""Batches below which nothing is advised."""
SHORTEST_GAP = 1e-4
LONELY = 1.5
"""Requests in a batch up to which waiting for company was in vain."""
CALM = 0.5
"""Part of the time that workers are busy, up to which requests rarely wait for one."""


@dataclass(frozen=True, slots=True)
class _Pressure:
    """The batches that left while others waited.

    Attributes:
        size: mean requests of a batch.
        together: mean requests that ran or waited at once.
        workers: that were up.
        share: of all recent batches.
    """

    batches: int
    size: float
    together: float
    workers: float
    share: float


def advise(view: ExplainView) -> tuple[list[Advice], list[Sentence]]:
    """Return what to change, and in sentences what it is no use to change."""
    if len(view.recent) < ENOUGH:
        return [], []
    items = [*_larger_batches(view), *_shorter_delay(view), *_more_workers(view), *_fewer_workers(view)]
    return (
        [item for item in items if isinstance(item, Advice)],
        [item for item in items if isinstance(item, Sentence)],
    )


# --- batch_size -----------------------------------------------------------------------------------


def _larger_batches(view: ExplainView) -> Iterator[Advice | Sentence]:
    """Advise a larger batch_size when batches leave full and leave requests behind."""
    now = view.limits.batch_size
    full = [
        record for record in view.recent if record.why == "full" and record.size >= record.batch_size == now
    ]
    pressure = _pressure(full, view.recent)
    if view.is_adaptive or pressure is None or pressure.share < OFTEN:
        return
    present = view.times.seconds(now)
    if view.times.per_item is None or present is None:
        yield from _trial(view, pressure)
        return
    capacity = pressure.workers * now / present
    size = _best_size(view, pressure)
    figures = _line_figures(view) | {
        "batches": pressure.batches,
        "mean_together": pressure.together,
        "batch_seconds": present,
    }
    basis = (
        f"a batch of {now} takes {span(present)}, and the model's times fit {span(view.times.base)} + "
        f"{span(view.times.per_item)} per request (measured sizes {view.times.sizes})"
    )
    predicted = _capacity(view, pressure, size) if size > now else capacity
    if predicted < WORTHWHILE * capacity:
        text = f"A batch_size above {now} would not raise the throughput by a tenth: {basis}, "
        text += f"and {count(pressure.together, 'request')} were there at once."
        yield Sentence("batches", text, figures)
        return
    text = (
        f"batch_size={size} would raise the throughput from {rate(capacity)} to about {rate(predicted)}: "
        f"{basis}; {count(pressure.together, 'request')} were there at once."
    )
    seconds = pressure.together / predicted
    change = {"batch_size": str(size)}
    figures |= {"requests_per_second": capacity}
    yield Advice(change, text, {"requests_per_second": predicted, "seconds": seconds}, figures)


def _pressure(busy: Sequence[BatchRecord], recent: Sequence[BatchRecord]) -> _Pressure | None:
    """Sum up the batches that left requests behind; None when there was none."""
    busy = [record for record in busy if record.left and record.workers]
    if not busy:
        return None
    return _Pressure(
        len(busy),
        mean([record.size for record in busy]),
        mean([record.left + record.size * max(1, record.busy + record.is_ahead) for record in busy]),
        mean([record.workers for record in busy]),
        len(busy) / len(recent),
    )


def _best_size(view: ExplainView, pressure: _Pressure) -> int:
    """Return the smallest size whose throughput is within a tenth of the best one's that can be filled."""
    fillable = FILLED * pressure.together / pressure.workers
    most = min(fillable, FURTHEST * max(view.times.measured), MOST_BATCH_SIZE)
    sizes = [view.limits.batch_size]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    best = max(_capacity(view, pressure, size) for size in sizes)
    return next(size for size in sizes if _capacity(view, pressure, size) * WORTHWHILE >= best)


def _capacity(view: ExplainView, pressure: _Pressure, size: int) -> float:
    """Return the requests per second of workers that run one full batch after the other."""
    seconds = view.times.seconds(size)
    return pressure.workers * size / seconds if seconds else 0.0


def _line_figures(view: ExplainView) -> dict[str, float | str]:
    return {
        "base_seconds": view.times.base,
        "per_request_seconds": view.times.per_item or 0.0,
        "measured_sizes": view.times.sizes if view.times.measured else "none",
    }


def _trial(view: ExplainView, pressure: _Pressure) -> Iterator[Advice]:
    """Advise to find out what larger batches cost: nothing but one size was measured."""
    now = view.limits.batch_size
    seconds = view.times.seconds(now)
    if seconds is None:
        return
    text = (
        f"Larger batches may raise the throughput: {pressure.batches} batches left with "
        f"{count(now, 'request')} (batch_size) while {count(pressure.together, 'request')} were there at "
        f"once. How much is not known, since only batches of {now} were measured ({span(seconds)}): "
        "try batching=adaptive with a latency_target_ms, or measure with frame profile."
    )
    figures: dict[str, float | str] = {
        "batches": pressure.batches,
        "batch_size": now,
        "batch_seconds": seconds,
        "mean_together": pressure.together,
    }
    yield Advice({"batching": "adaptive"}, text, {}, figures)


# --- max_batch_delay ------------------------------------------------------------------------------


def _shorter_delay(view: ExplainView) -> Iterator[Advice]:
    """Advise no delay when it brings no company and the workers have time for batches of one."""
    recent = view.recent
    late = [record for record in recent if record.why == "delay over"]
    size = mean([record.size for record in late])
    single = view.times.seconds(1)
    if view.is_adaptive or len(late) < OFTEN * len(recent) or size > LONELY or single is None:
        return
    workers = max(1.0, mean([record.workers for record in late]))
    arrivals = _arrivals(recent)
    use = arrivals * single / workers
    if use > CALM:
        return
    waited = mean([record.waited for record in late])
    before = waited + (view.times.seconds(size) or single)
    after = single * (1 + use / (2 * (1 - use)))  # the mean wait of a queue with constant service times
    delay = span(view.limits.max_delay)
    text = (
        f"max_batch_delay=0 would lower the time of a request from about {span(before)} to about "
        f"{span(after)}: {len(late)} of the last {count(len(recent), 'batch', 'batches')} waited for {delay} "
        f"and left with {count(size, 'request')} on average; one takes {span(single)}, and "
        f"{rate(arrivals)} keep the workers busy for {100 * use:.0f} % of the time."
    )
    figures: dict[str, float | str] = {
        "batches": len(late),
        "of": len(recent),
        "mean_size": size,
        "mean_wait_seconds": waited,
        "seconds": before,
        "batch_seconds": single,
        "requests_per_second": arrivals,
        "busy_share": use,
    }
    yield Advice({"max_batch_delay": "0"}, text, {"seconds": after}, figures)


def _arrivals(recent: Sequence[BatchRecord]) -> float:
    """Return the requests per second of the last batches; a pause among them does not count."""
    gaps = sorted(later.at - earlier.at for earlier, later in pairwise(recent))
    return mean([record.size for record in recent]) / max(SHORTEST_GAP, gaps[len(gaps) // 2])


# --- workers --------------------------------------------------------------------------------------


def _more_workers(view: ExplainView) -> Iterator[Advice | Sentence]:
    """Advise more workers when all that there may be are busy and requests wait."""
    recent = view.recent
    maximum = view.scaling.maximum
    pressure = _pressure(
        [record for record in recent if record.busy >= record.workers >= view.scaling.maximum], recent
    )
    if pressure is None or pressure.share < OFTEN or view.workers + view.starting < maximum:
        return
    fed = int(min(pressure.together / pressure.size, 2 * maximum))
    target = fed if view.cpu_workers is None else min(fed, view.cpu_workers)
    left = pressure.together - pressure.size * pressure.workers
    figures: dict[str, float | str] = {
        "batches": pressure.batches,
        "of": len(recent),
        "maxWorkers": maximum,
        "mean_left": left,
    }
    all_busy = "the only worker" if maximum == 1 else f"all {maximum} workers"
    seen = (
        f"{pressure.batches} of the last {count(len(recent), 'batch', 'batches')} left with {all_busy} busy "
        f"and {count(left, 'request')} waiting"
    )
    if target > maximum:
        yield from _raised_maximum(view, pressure, target, seen, figures)
    elif fed > maximum:
        text = (
            f"More workers than {maximum} would not help a model that computes on the CPU: {seen}, but there "
            f"are CPU threads for {count(target, 'worker')} (cpu_threads)."
        )
        yield Sentence("workers", text, figures | {"cpu_workers": target})


def _raised_maximum(
    view: ExplainView, pressure: _Pressure, target: int, seen: str, figures: dict[str, float | str]
) -> Iterator[Advice]:
    present = view.times.seconds(round(pressure.size))
    if not present:
        return
    capacity = pressure.workers * pressure.size / present
    predicted = capacity * target / pressure.workers
    text = (
        f"maxWorkers={target} would raise the throughput from {rate(capacity)} to about {rate(predicted)}: "
        f"{seen}; a batch of {count(pressure.size, 'request')} takes {span(present)}."
    )
    figures |= {"requests_per_second": capacity, "batch_seconds": present}
    outcome = {"requests_per_second": predicted, "workers": float(target)}
    yield Advice({"maxWorkers": str(target)}, text, outcome, figures)


def _fewer_workers(view: ExplainView) -> Iterator[Advice]:
    """Advise a lower floor when the last batches never needed it."""
    recent = view.recent
    busiest = max(record.busy for record in recent)
    target = max(1, busiest)
    if len(recent) < RECENT or target >= view.scaling.minimum or any(item.left for item in recent):
        return
    text = (
        f"minWorkers={target} would do for a load like that of the last "
        f"{count(len(recent), 'batch', 'batches')}: at most {count(busiest, 'worker')} ran a batch at once "
        f"and no request waited, while minWorkers is {view.scaling.minimum}. "
        "The memory of the others would be free."
    )
    figures: dict[str, float | str] = {
        "batches": len(recent),
        "most_busy": busiest,
        "minWorkers": view.scaling.minimum,
    }
    yield Advice({"minWorkers": str(target)}, text, {"workers": float(target)}, figures)

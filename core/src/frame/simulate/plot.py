"""Draw a simulated run: latencies, requests that wait and workers, over the time of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from frame.errors import PluginError
from frame.simulate.outcome import Outcome, quantile
from frame.simulate.trace import Trace

_BUCKETS = 120
_SIZE_INCHES = (10.0, 7.5)
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.07, 1.0), "frameon": False}
"""Legends stand beside the curves, not on them."""


def draw(outcome: Outcome, trace: Trace, path: Path, *, target: float | None = None) -> None:
    """Write the plot to a file; its suffix (.png, .svg, .pdf) says in which format.

    Args:
        target: seconds, drawn as a line.

    Raises:
        PluginError: matplotlib is not installed.
        ValueError: there is no such format.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError as error:
        message = "--plot needs matplotlib: pip install 'frame-core[plot]'"
        raise PluginError(message) from error
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    latency, queue, workers = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    _draw_latency(latency, outcome, target)
    _draw_load(queue, outcome, trace)
    _draw_workers(workers, outcome)
    for axes in (latency, queue, workers):
        axes.grid(alpha=0.3)
        for at in trace.kills:
            axes.axvline(at, color="tab:red", linestyle=":", linewidth=1)
    latency.set_title(f"{trace.name}: {len(trace.arrivals)} requests", fontsize=11)
    workers.set_xlabel("seconds (dotted red: a worker is killed)" if trace.kills else "seconds")
    workers.set_xlim(0, outcome.seconds)
    figure.savefig(path)


def _draw_latency(axes: Any, outcome: Outcome, target: float | None) -> None:
    width = outcome.seconds / _BUCKETS or 1.0
    buckets: dict[int, list[float]] = {}
    for answer in outcome.answers:
        buckets.setdefault(int(answer.arrived / width), []).append(answer.latency * 1000)
    times = [(index + 0.5) * width for index in sorted(buckets)]
    ordered = [sorted(buckets[index]) for index in sorted(buckets)]
    for name, share, colour in (("p99", 0.99, "tab:orange"), ("p50", 0.5, "tab:blue")):
        axes.plot(times, [quantile(values, share) for values in ordered], label=name, color=colour)
    if target is not None:
        axes.axhline(target * 1000, color="tab:green", linestyle="--", linewidth=1, label="target")
    axes.set_ylabel("latency (ms),\nby time of arrival")
    axes.set_ylim(bottom=0)
    axes.legend(**_BESIDE)


def _draw_load(axes: Any, outcome: Outcome, trace: Trace) -> None:
    width = trace.seconds / _BUCKETS or 1.0
    counts = [0] * (ceil(trace.seconds / width) + 1)
    for arrival in trace.arrivals:
        counts[int(arrival.at / width)] += 1
    axes.step([index * width for index in range(len(counts))], [count / width for count in counts],
              where="post", color="tab:gray", linewidth=1, label="requests/s")  # fmt: skip
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)
    queue = axes.twinx()
    queue.plot(*_thinned(outcome.waiting), color="tab:purple", linewidth=1, label="waiting")
    queue.set_ylabel("requests that wait")
    queue.set_ylim(bottom=0)
    lines = [*axes.get_lines(), *queue.get_lines()]
    queue.legend(lines, [line.get_label() for line in lines], **_BESIDE)


def _draw_workers(axes: Any, outcome: Outcome) -> None:
    times = [*(item.at for item in outcome.workers), outcome.seconds]
    up = [item.up for item in outcome.workers]
    ends: dict[str, Any] = {"where": "post"}
    planned = [item.up + item.starting for item in outcome.workers]
    axes.step(
        times, [*planned, *planned[-1:]], color="tab:olive", linestyle="--", label="with starts", **ends
    )
    axes.step(times, [*up, *up[-1:]], color="tab:blue", label="up", **ends)
    axes.set_ylabel("workers")
    axes.set_ylim(0, max(planned, default=1) + 0.5)
    axes.legend(**_BESIDE)


def _thinned(points: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Return the largest of every few values with its time, so that a plot of many points stays small."""
    step = ceil(len(points) / (_BUCKETS * 5)) or 1
    parts = [points[start : start + step] for start in range(0, len(points), step)]
    largest = [max(part, key=lambda point: point[1]) for part in parts]
    return [at for at, _ in largest], [value for _, value in largest]

"""A simulated run as tables for people and as data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from frame.simulate.outcome import Outcome, Workers, quantile
from frame.simulate.search import IN_TIME, Candidate
from frame.simulate.settings import Settings
from frame.simulate.trace import Trace

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_Row = tuple[str, ...]
_ROWS = 20
"""Lines of a table of what may be long; the JSON has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run is called and what came of it.

    Attributes:
        wall_seconds: of the simulation itself.
        target: seconds; with `candidates`, what was searched for.
    """

    settings: Settings
    service: str
    trace: Trace
    outcome: Outcome
    wall_seconds: float
    target: float | None = None
    candidates: Sequence[Candidate] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all figures; times in seconds."""
        outcome, ordered = self.outcome, self.outcome.latencies()
        return {
            "trace": {
                "name": self.trace.name,
                "requests": len(self.trace.arrivals),
                "seconds": self.trace.seconds,
                "kills": list(self.trace.kills),
            },
            "service": self.service,
            "settings": asdict(self.settings),
            "latency_seconds": {name: quantile(ordered, share) for name, share in _SHARES.items()},
            "throughput": outcome.throughput,
            "answered": len(outcome.answers),
            "refused": dict(outcome.refusals),
            "batch_sizes": {str(size): outcome.batches[size] for size in sorted(outcome.batches)},
            "mean_batch_size": outcome.mean_batch,
            "workers": [list(item) for item in outcome.workers],
            "worker_seconds": outcome.worker_seconds,
            "utilisation": outcome.utilisation,
            "deaths": outcome.deaths,
            "scalings": [asdict(item) for item in outcome.scalings],
            "choices": [asdict(item) for item in outcome.choices],
            "seconds": outcome.seconds,
            "simulated_requests_per_second": self.speed,
            "target_seconds": self.target,
            "candidates": [asdict(item) for item in self.candidates],
        }

    @property
    def speed(self) -> float:
        """Requests simulated per second of wall clock."""
        return self.outcome.requests / self.wall_seconds if self.wall_seconds else 0.0

    def to_text(self) -> str:
        """Return the report as people read it."""
        parts = [_table(("", ""), self._figures())]
        if self.outcome.batches:
            parts.append(_table(("requests in a batch", "batches", "share"), self._batches()))
        if len(changes := _changes(self.outcome.workers)) > 1:
            rows = [(f"{item.at:.2f} s", str(item.up), str(item.starting)) for item in changes[:_ROWS]]
            parts.append(_table(("from", "workers up", "starting"), _cut(rows, len(changes))))
        if choices := self.outcome.choices:
            why = [
                (f"{item.at:.2f} s", str(item.batch_size), f"{item.max_delay * 1000:.1f} ms", item.reason)
                for item in choices[-_ROWS:]
            ]
            parts.append(_table(("from", "batch_size", "delay", "why (batching=adaptive)"), why))
        if self.target is not None:
            parts.append(self._search(self.target))
        return "\n\n".join(parts)

    def _figures(self) -> list[tuple[str, str]]:
        outcome, ordered = self.outcome, self.outcome.latencies()
        latencies = [(name, quantile(ordered, share)) for name, share in _SHARES.items()]
        refused = ", ".join(f"{count} {reason}" for reason, count in outcome.refusals.most_common()) or "0"
        requests = f"{len(self.trace.arrivals)} in {self.trace.seconds:.4g} s ({self.trace.name})"
        return [
            ("requests", requests),
            ("batch takes", self.service),
            ("latency", ", ".join(f"{name} {_ms(value)}" for name, value in latencies)),
            ("throughput", f"{outcome.throughput:.1f} answers/s"),
            ("answered 503", refused),
            ("workers", f"{outcome.worker_seconds:.1f} worker-seconds, busy {outcome.utilisation:.0%}"),
            ("worker deaths", str(outcome.deaths)),
            ("simulated", f"in {self.wall_seconds:.2f} s, {self.speed:,.0f} requests/s"),
        ]

    def _batches(self) -> list[tuple[str, ...]]:
        batches, total = self.outcome.batches, self.outcome.batches.total()
        most = batches.most_common(_ROWS)
        rows = [(str(size), str(count), f"{count / total:.1%}") for size, count in sorted(most)]
        return [*_cut(rows, len(batches)), ("mean", f"{self.outcome.mean_batch:.2f}", "")]

    def _search(self, target: float) -> str:
        head = ("batch_size", "max_batch_delay", "workers", "p50", "p99", "in time", "answers/s")
        rows = [
            (
                str(item.batch_size), f"{item.max_batch_delay_ms} ms", str(item.workers), _ms(item.p50),
                _ms(item.p99), f"{item.in_time:.1%}", f"{item.throughput:.1f}",
                f"{item.worker_seconds:.1f}" if item.meets else "missed",
            )
            for item in self.candidates[:_ROWS]
        ]  # fmt: skip
        table = _table((*head, "worker-seconds"), _cut(rows, len(self.candidates)))
        best = self.candidates[0] if self.candidates and self.candidates[0].meets else None
        goal = f"{IN_TIME:.0%} of the requests within {_ms(target)}"
        if best is None:
            return f"{table}\n\nNothing that was tried answers {goal}."
        keys = f"batch_size={best.batch_size} max_batch_delay={best.max_batch_delay_ms}"
        workers = f"minWorkers={best.workers} maxWorkers={best.workers}"
        return f"{table}\n\nCheapest for {goal}: {keys} {workers}"


def _changes(workers: Sequence[Workers]) -> list[Workers]:
    """Return the numbers of workers over time, the last of each moment, without those that change nothing."""
    kept: list[Workers] = []
    for item in workers:
        if kept and kept[-1].at == item.at:
            kept.pop()
        if not kept or kept[-1][1:] != item[1:]:
            kept.append(item)
    return kept


def _cut(rows: Sequence[_Row], total: int) -> list[_Row]:
    """Say how many rows are left out."""
    return [*rows, (f"{total - len(rows)} more",)] if total > len(rows) else [*rows]


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table(box=None, pad_edge=False, show_header=any(head))
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=120).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

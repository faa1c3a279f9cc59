"""Percentiles of a model's last requests as a log line, for those who asked with `log_request_metric`."""

from __future__ import annotations

import logging
import statistics

_log = logging.getLogger(__name__)


class RequestLog:
    """Collects times and logs p50 and p90 of every `every` requests (DJL Serving's `metrics_aggregation`)."""

    def __init__(self, model: str, every: int) -> None:
        self._model = model
        self._every = max(2, every)  # a percentile of one is no percentile
        self._times: dict[str, list[float]] = {"queue": [], "inference": [], "total": []}

    def add(self, *, queue: float, inference: float, total: float) -> None:
        """Take one answered request's times, in seconds."""
        for name, value in (("queue", queue), ("inference", inference), ("total", total)):
            self._times[name].append(value)
        if len(self._times["total"]) >= self._every:
            _log.info("request_times model=%s requests=%d %s", self._model, self._every, self._summary())
            for values in self._times.values():
                values.clear()

    def _summary(self) -> str:
        words = []
        for name, values in self._times.items():
            cuts = statistics.quantiles(values, n=10, method="inclusive")
            words.append(f"{name}_p50={cuts[4]:.6f} {name}_p90={cuts[8]:.6f}")
        return " ".join(words)

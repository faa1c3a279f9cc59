"""What is counted, as cheap numbers on the loop's thread, and given to prometheus_client at each scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """Counts by upper bound, and a sum.

    A Python list and a bisection: prometheus_client's own takes a lock.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by bound, as Prometheus wants them."""
        running = 0
        result: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            result.append(("+Inf" if bound == float("inf") else repr(bound), running))
        return result


class ModelMetrics:
    """The numbers of one model version."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.scalings: dict[str, int] = {}
        self.splits = 0
        self.request = Histogram(SECONDS)
        self.queue_wait = Histogram(SECONDS)
        self.inference = Histogram(SECONDS)
        self.decode = Histogram(SECONDS)
        self.encode = Histogram(SECONDS)
        self.load = Histogram(SECONDS)
        self.batch_size = Histogram(BATCH_SIZES)

    def count_request(self, outcome: str, seconds: float) -> None:
        """Count one finished request; `outcome` is a class of `OUTCOMES`."""
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        self.request.observe(seconds)

    def count_restart(self, cause: str) -> None:
        """Count one worker group that ended without being asked."""
        self.restarts[cause] = self.restarts.get(cause, 0) + 1

    def count_scaling(self, difference: int) -> None:
        """Count one change of the number of workers."""
        direction = "up" if difference > 0 else "down"
        self.scalings[direction] = self.scalings.get(direction, 0) + 1


OUTCOMES = ("ok", "client_error", "model_error", "server_error", "cancelled")
"""Values of the label `outcome`."""


def outcome_of(status: int) -> str:
    """Return the outcome label of a status."""
    if status < 400:  # noqa: PLR2004  # RFC 9110: below are successes
        return "ok"
    if status in {424, 507}:
        return "model_error"
    return "client_error" if status < 500 else "server_error"  # noqa: PLR2004


NOTHING: Mapping[str, int] = MappingProxyType({})

HISTOGRAMS: tuple[tuple[str, str, str], ...] = (
    (
        "frame_request_seconds",
        "request",
        "From a request's admission to its answer, or to the end of its stream.",
    ),
    ("frame_queue_wait_seconds", "queue_wait", "From a request's admission to its batch's dispatch."),
    ("frame_inference_seconds", "inference", "The model's own time for a batch."),
    ("frame_decode_seconds", "decode", "Decoding a batch's payloads in the worker."),
    ("frame_encode_seconds", "encode", "Encoding a batch's answers in the worker."),
    ("frame_batch_size", "batch_size", "Requests in a batch."),
    ("frame_model_load_seconds", "load", "From a worker group's start to its first batch."),
)


class MetricsView:
    """What the collector asks of one model version at a scrape.

    Attributes:
        share: of the requests that name no version; None where no rules say so.
        shadow: copies that it got, by result.
        rollbacks: how often it lost its weight by itself, by cause.
    """

    __slots__ = (
        "metrics",
        "model",
        "queue_length",
        "rollbacks",
        "self_check",
        "shadow",
        "share",
        "version",
        "workers",
    )

    def __init__(
        self,
        *,
        model: str,
        version: str | None,
        metrics: ModelMetrics,
        queue_length: int,
        workers: dict[str, int],
        self_check: str = "",
        share: float | None = None,
        shadow: Mapping[str, int] = NOTHING,
        rollbacks: Mapping[str, int] = NOTHING,
    ) -> None:
        self.model = model
        self.self_check = self_check
        self.version = version or ""
        self.metrics = metrics
        self.queue_length = queue_length
        self.workers = workers
        self.share = share
        self.shadow = shadow
        self.rollbacks = rollbacks


class FrameCollector(Collector):
    """All metrics of the server; what is given here is asked at each scrape."""

    def __init__(
        self,
        views: Callable[[], Iterable[MetricsView]],
        queued_bytes: Callable[[], int],
        result_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._views = views
        self._queued_bytes = queued_bytes
        self._result_bytes = result_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        views = list(self._views())
        for name, attribute, text in HISTOGRAMS:
            yield _histogram(name, attribute, text, views)
        yield from _counters(views)
        yield from _gauges(views)
        yield from _traffic(views)
        bytes_queued = GaugeMetricFamily("frame_queued_bytes", "Bytes of request bodies that wait or run.")
        bytes_queued.add_metric([], self._queued_bytes())
        yield bytes_queued
        results = GaugeMetricFamily("frame_async_result_bytes", "Bytes of answers that are fetched later.")
        results.add_metric([], self._result_bytes())
        yield results


def _histogram(name: str, attribute: str, text: str, views: list[MetricsView]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["model", "version"])
    for view in views:
        histogram: Histogram = getattr(view.metrics, attribute)
        family.add_metric([view.model, view.version], histogram.buckets(), histogram.total)
    return family


def _counters(views: list[MetricsView]) -> Iterator[CounterMetricFamily]:
    requests = CounterMetricFamily(
        "frame_requests", "Finished requests.", labels=["model", "version", "outcome"]
    )
    restarts = CounterMetricFamily(
        "frame_worker_restarts",
        "Worker groups that ended without being asked.",
        labels=["model", "version", "cause"],
    )
    splits = CounterMetricFamily(
        "frame_batch_splits", "Batches that took more than one model call.", labels=["model", "version"]
    )
    scalings = CounterMetricFamily(
        "frame_scalings",
        "Changes of the number of workers.",
        labels=["model", "version", "direction"],
    )
    for view in views:
        labels = [view.model, view.version]
        for direction, count in view.metrics.scalings.items():
            scalings.add_metric([*labels, direction], count)
        for outcome, count in view.metrics.requests.items():
            requests.add_metric([*labels, outcome], count)
        for cause, count in view.metrics.restarts.items():
            restarts.add_metric([*labels, cause], count)
        splits.add_metric(labels, view.metrics.splits)
    yield from (requests, restarts, scalings, splits)


def _gauges(views: list[MetricsView]) -> Iterator[GaugeMetricFamily]:
    length = GaugeMetricFamily("frame_queue_length", "Requests that wait.", labels=["model", "version"])
    workers = GaugeMetricFamily("frame_workers", "Workers by state.", labels=["model", "version", "state"])
    checks = GaugeMetricFamily(
        "frame_self_check", "1: what the check at load found.", labels=["model", "version", "result"]
    )
    for view in views:
        labels = [view.model, view.version]
        length.add_metric(labels, view.queue_length)
        if view.self_check:
            checks.add_metric([*labels, view.self_check], 1)
        for state, count in view.workers.items():
            workers.add_metric([*labels, state], count)
    yield from (length, workers, checks)


def _traffic(views: list[MetricsView]) -> Iterator[Metric]:
    shares = GaugeMetricFamily(
        "frame_traffic_share",
        "Share of the requests that name no version.",
        labels=["model", "version"],
    )
    shadows = CounterMetricFamily(
        "frame_shadow_requests",
        "Copied requests, by how the answers compared.",
        labels=["model", "version", "result"],
    )
    rollbacks = CounterMetricFamily(
        "frame_rollbacks", "Versions that lost their weight.", labels=["model", "version", "cause"]
    )
    for view in views:
        labels = [view.model, view.version]
        if view.share is not None:
            shares.add_metric(labels, view.share)
        for result, count in view.shadow.items():
            shadows.add_metric([*labels, result], count)
        for cause, count in view.rollbacks.items():
            rollbacks.add_metric([*labels, cause], count)
    yield from (shares, shadows, rollbacks)

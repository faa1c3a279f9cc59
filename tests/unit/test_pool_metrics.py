"""What is counted, and that Prometheus reads it as it was meant."""

from __future__ import annotations

import math

import pytest
from frame.pool.metrics import (
    BATCH_SIZES,
    HISTOGRAMS,
    OUTCOMES,
    SECONDS,
    FrameCollector,
    Histogram,
    MetricsView,
    ModelMetrics,
    outcome_of,
)
from frame.pool.request_log import RequestLog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


def scraped(
    *views: MetricsView, queued_bytes: int = 0
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of a scrape by name and labels, as Prometheus parses it."""
    registry = CollectorRegistry()
    registry.register(FrameCollector(lambda: views, lambda: queued_bytes))
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def view(metrics=None, *, model="m", version=None, queue_length=0, workers=None) -> MetricsView:
    return MetricsView(
        model=model,
        version=version,
        metrics=metrics or ModelMetrics(),
        queue_length=queue_length,
        workers=workers or {},
    )


@given(st.lists(st.floats(0, 100) | st.sampled_from(SECONDS), max_size=30))
def test_buckets_count_what_is_not_above_their_bound(values):
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    bounds = [*SECONDS, math.inf]
    assert [count for _, count in histogram.buckets()] == [
        sum(value <= bound for value in values) for bound in bounds
    ]
    assert [float(name) for name, _ in histogram.buckets()] == bounds
    assert histogram.total == pytest.approx(sum(values))


def test_a_value_may_count_several_times():
    histogram = Histogram(BATCH_SIZES)
    histogram.observe(3.0, 5)
    assert dict(histogram.buckets())["2.0"] == 0
    assert dict(histogram.buckets())["4.0"] == 5
    assert histogram.total == 15.0


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (399, "ok"),
        (400, "client_error"),
        (413, "client_error"),
        (424, "model_error"),
        (507, "model_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_a_status_has_its_outcome(status, outcome):
    assert outcome_of(status) == outcome
    assert outcome in OUTCOMES


def test_prometheus_reads_every_number_with_its_labels():
    metrics = ModelMetrics()
    metrics.count_request("ok", 0.02)
    metrics.count_request("ok", 0.02)
    metrics.count_request("client_error", 0.5)
    metrics.count_restart("died")
    metrics.splits += 2
    metrics.batch_size.observe(3)
    found = scraped(view(metrics, version="2", queue_length=7, workers={"ready": 2}), queued_bytes=99)
    model = (("model", "m"), ("version", "2"))

    def labelled(key, value):
        return tuple(sorted((*model, (key, value))))

    assert found["frame_requests_total", labelled("outcome", "ok")] == 2
    assert found["frame_requests_total", labelled("outcome", "client_error")] == 1
    assert found["frame_worker_restarts_total", labelled("cause", "died")] == 1
    assert found["frame_batch_splits_total", model] == 2
    assert found["frame_queue_length", model] == 7
    assert found["frame_workers", labelled("state", "ready")] == 2
    assert found["frame_queued_bytes", ()] == 99
    assert found["frame_request_seconds_count", model] == 3
    assert found["frame_request_seconds_sum", model] == pytest.approx(0.54)
    assert found["frame_request_seconds_bucket", labelled("le", "0.025")] == 2
    assert found["frame_batch_size_bucket", labelled("le", "4.0")] == 1


def test_every_histogram_is_there_before_anything_happened():
    found = scraped(view())
    for name, attribute, _ in HISTOGRAMS:
        assert found[f"{name}_count", (("model", "m"), ("version", ""))] == 0, attribute
        assert isinstance(getattr(ModelMetrics(), attribute), Histogram)


def test_versions_of_a_model_and_names_with_any_characters_are_kept_apart():
    odd = 'a"b\\c\nd'
    found = scraped(view(model=odd, version="1"), view(model=odd, version="2"), view(model="other"))
    names = {labels for name, labels in found if name == "frame_queue_length"}
    assert names == {
        (("model", odd), ("version", "1")),
        (("model", odd), ("version", "2")),
        (("model", "other"), ("version", "")),
    }


def test_percentiles_are_logged_once_for_so_many_requests(caplog):
    caplog.set_level("INFO", "frame.pool.request_log")
    log = RequestLog("m", 10)
    for number in range(25):
        log.add(queue=0.0, inference=float(number % 10), total=float(number % 10))
    assert len(caplog.messages) == 2
    assert "model=m requests=10" in caplog.messages[0]
    assert "total_p50=4.500000 total_p90=8.100000" in caplog.messages[0]
    assert "queue_p90=0.000000" in caplog.messages[1]

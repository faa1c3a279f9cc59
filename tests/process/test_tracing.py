"""OpenTelemetry: each request's spans reach a collector, and W3C's header goes in and out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, ServerError, run_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.process.probes import DEADLINE, JSON, put_model, until
from tests.process.workflow_files import ask, echo, put_workflow

pytestmark = pytest.mark.slow(120)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
TELLS = """
from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    return Output().add_as_json({"traceparent": inputs.get_property("traceparent")})
"""


class Collector:
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service = ""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {item.key: item.value.string_value for item in resource.resource.attributes}
                    collector.service = names["service.name"]
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def of(self, trace: str) -> dict[str, Span]:
        """Return the spans of a trace by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.http.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.http.shutdown()
        collector.http.server_close()
        thread.join()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("tracing") / "store"
    put_model(store / "tells", TELLS, minWorkers=1)
    put_model(store / "words", engine="echo", minWorkers=1, option__mode="stream")
    flow = store / "flow"
    models = {"a": echo(flow), "b": echo(flow)}
    workflow = {"out": ["total", ["functionsApply", ["a", "b"], "in"], "in"]}
    put_workflow(flow, workflow, models=models, functions="total")
    return store


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def server(store: Path, collector: Collector) -> Iterator[Server]:
    environ = {
        "SERVING_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_SERVICE_NAME": "frame-test",
    }
    with run_server(store, environ=environ) as running:
        yield running


def attributes(span: Span) -> dict[str, object]:
    """Return the attributes of a span."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_request_has_spans_of_its_queue_its_way_and_its_worker(
    server: Server, collector: Collector
) -> None:
    answer = ask(server, "tells", {}, traceparent=SAMPLED, x_request_id="traced")
    found = until(lambda: len(spans := collector.of(TRACE)) == 4 and spans)
    root = found["POST /predictions/{model}"]
    assert root.parent_span_id.hex() == PARENT
    assert root.kind == Span.SpanKind.SPAN_KIND_SERVER
    told = attributes(root)
    assert told["http.response.status_code"] == 200
    assert (told["frame.model"], told["frame.request_id"]) == ("tells", "traced")
    assert answer.headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    worker = found["worker"]
    assert answer.json()["traceparent"] == f"00-{TRACE}-{worker.span_id.hex()}-01", (
        "what a handler adds is below"
    )
    assert attributes(worker)["frame.batch_size"] == 1
    for name in ("queue", "dispatch", "worker"):
        assert found[name].parent_span_id == root.span_id
        assert root.start_time_unix_nano <= found[name].start_time_unix_nano <= found[name].end_time_unix_nano
    assert found["queue"].end_time_unix_nano == found["dispatch"].start_time_unix_nano
    assert found["dispatch"].end_time_unix_nano == found["worker"].start_time_unix_nano
    assert found["worker"].end_time_unix_nano <= root.end_time_unix_nano
    assert collector.service == "frame-test"


def test_a_workflow_has_a_span_for_each_step(server: Server, collector: Collector) -> None:
    trace = "a" * 32
    assert ask(server, "flow", {"n": 1}, traceparent=f"00-{trace}-{PARENT}-01").status_code == 200
    until(lambda: len([span for span in collector.spans if span.trace_id.hex() == trace]) == 13)
    found = collector.of(trace)
    assert {"step a", "step b", "step total"} <= found.keys()
    root = found["POST /predictions/{model}"]
    steps = {span.span_id for span in collector.spans if span.name.startswith("step ")}
    for span in collector.spans:
        if span.trace_id.hex() == trace and span.name.startswith("step "):
            assert span.parent_span_id == root.span_id
        elif span.trace_id.hex() == trace and span is not root:
            assert span.parent_span_id in steps
    assert found["step total"].start_time_unix_nano >= found["step a"].end_time_unix_nano


def test_streams_and_failures_are_traced(server: Server, collector: Collector) -> None:
    trace = "b" * 32
    url = f"{server.url}/predictions/words"
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    assert httpx.post(url, content=b"one two", headers=headers, timeout=DEADLINE).text == "one two "
    until(lambda: len(collector.of(trace)) == 4)
    trace = "c" * 32
    answer = ask(server, "none", {}, traceparent=f"00-{trace}-{PARENT}-01")
    assert answer.status_code == 404
    (span,) = until(lambda: collector.of(trace).values())
    assert attributes(span)["http.response.status_code"] == 404


def test_the_client_decides_whether_it_is_sampled(server: Server, collector: Collector) -> None:
    trace = "d" * 32
    answer = ask(server, "tells", {}, traceparent=f"00-{trace}-{PARENT}-00")
    assert answer.json()["traceparent"].startswith(f"00-{trace}-")
    assert answer.json()["traceparent"].endswith("-00")
    last = "e" * 32
    ask(server, "tells", {}, traceparent=f"00-{last}-{PARENT}-01")
    until(lambda: len(collector.of(last)) == 4)
    assert not collector.of(trace)


def test_a_request_without_a_trace_begins_one_and_a_malformed_one_is_left_out(server: Server) -> None:
    own = ask(server, "tells", {}).json()["traceparent"]
    other = ask(server, "tells", {}, traceparent="00-nonsense").json()["traceparent"]
    assert own.split("-")[1] != other.split("-")[1]
    assert len(own) == len(other) == 55


def test_what_is_left_is_sent_at_the_end_and_a_lost_collector_holds_nothing_up(store: Path) -> None:
    with collecting() as collector:
        environ = {"SERVING_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with run_server(store, environ=environ) as server:
            ask(server, "tells", {}, traceparent=SAMPLED)
        assert len(collector.of(TRACE)) == 4
    with run_server(store, environ=environ) as server:
        assert ask(server, "tells", {}).status_code == 200
        server.send_signal(15)
        assert server.wait_ended() == 0
        assert "spans_not_exported" in server.log()


def test_off_it_leaves_the_header_as_it_came(store: Path) -> None:
    with run_server(store) as server:
        answer = ask(server, "tells", {}, traceparent=SAMPLED)
        assert answer.json()["traceparent"] == SAMPLED
        assert "traceparent" not in answer.headers


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_exporters_that_are_not_there_are_refused_at_the_start(
    store: Path, variable: str, value: str
) -> None:
    environ = {"SERVING_TRACING": "true", variable: value}
    with (
        pytest.raises(ServerError, match=f"{variable}={value}: expected"),
        run_server(store, environ=environ),
    ):
        raise AssertionError("it must not serve")


def test_the_console_exporter_writes_to_the_log(store: Path) -> None:
    environ = {"SERVING_TRACING": "true", "OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with run_server(store, environ=environ) as server:
        assert httpx.post(f"{server.url}/predictions/tells", content=json.dumps({}), headers=JSON).is_success
        until(lambda: '"name": "worker"' in server.log())

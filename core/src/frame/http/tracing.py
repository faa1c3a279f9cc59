"""OpenTelemetry: a span for each request, and below it its time in the queue, on its way, and in the worker.

Imported only when `tracing` is set. Spans go where the variables of OpenTelemetry say (`OTEL_*`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from frame import __version__
from frame.errors import ConfigError
from frame.http.app import Answer
from frame.http.routes import Found
from frame.http.servers import Message, Receive, Scope, Send
from frame.pool.tracing import TRACE_KEY, TRACEPARENT, JobTimes

_log = logging.getLogger(__name__)
EXPORTERS = ("otlp", "console", "none")
_SECONDS = 1_000_000_000
_FLUSH_MILLIS = 2000
_SERVER_ERROR = 500


class _Ids(RandomIdGenerator):
    """Random ids, but for one that was given out before its span is written; one thread uses it."""

    def __init__(self) -> None:
        self.next = 0

    def generate_span_id(self) -> int:
        """Return the id that was asked for, else a random one."""
        found, self.next = self.next or super().generate_span_id(), 0
        return found


class Tracing:
    """Writes the spans of requests. All methods but `close` are called on the loop's thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start to export.

        Raises:
            ConfigError: OTEL_TRACES_EXPORTER names none that is there.
        """
        self._ids = _Ids()
        resource = Resource.create({SERVICE_NAME: environ.get("OTEL_SERVICE_NAME", "frame")})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        exporter = _exporter(environ)
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("frame", __version__)
        self._epoch = time.time_ns() - int(time.monotonic() * _SECONDS)

    async def serve(self, answer: Answer, scope: Scope, receive: Receive, send: Send, found: Found) -> None:
        """Answer a request within a span of its own, which is below the client's."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {
            "http.request.method": scope["method"],
            "http.route": found.endpoint.path,
            "url.path": scope["path"],
            **{f"frame.{name}": value for name, value in found.parameters.items()},
        }
        span = self._tracer.start_span(
            f"{scope['method']} {found.endpoint.path}",
            extract(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        scope[TRACE_KEY] = Place(self._tracer, self._ids, span, self._epoch)
        own = traceparent_of(span.get_span_context()).encode()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                status: int = message["status"]
                span.set_attribute("http.response.status_code", status)
                if status >= _SERVER_ERROR:
                    span.set_status(Status(StatusCode.ERROR))
                for name, value in message["headers"]:
                    if name == b"x-request-id":
                        span.set_attribute("frame.request_id", value.decode("latin-1"))
                message = {**message, "headers": [*message["headers"], (TRACEPARENT.encode(), own)]}
            await send(message)

        try:
            await answer(scope, receive, send_marked, found)
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Export what is left, for two seconds at most."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def tell(is_done: bool) -> None:  # noqa: FBT001  # the loop calls it
            if not done.done():
                done.set_result(is_done)

        def flush() -> None:
            is_done = self._provider.force_flush(_FLUSH_MILLIS)
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(tell, is_done)

        threading.Thread(target=flush, daemon=True).start()  # one that takes longer does not hold the end up
        await asyncio.wait((done,), timeout=_FLUSH_MILLIS / 1000)
        if not done.done() or not done.result():
            done.cancel()
            _log.warning("spans_not_exported reason=the collector did not take them in time")


class Place:
    """Where in a trace a request, or a step of a workflow, is. Implements `frame.pool.tracing.JobTrace`."""

    def __init__(self, tracer: Tracer, ids: _Ids, span: Span, epoch: int, *, owns: bool = False) -> None:
        """Be below `span`.

        Args:
            epoch: nanoseconds between the clock of jobs and the time of day.
            owns: the span ends with this.
        """
        self._tracer = tracer
        self._ids = ids
        self._span = span
        self._epoch = epoch
        self._owns = owns
        self._worker_id = RandomIdGenerator().generate_span_id()

    def properties(self) -> dict[str, str]:
        """Return the header that makes what the worker does part of its span."""
        context = self._span.get_span_context()
        span_id = self._worker_id if self._span.is_recording() else context.span_id
        return {TRACEPARENT: traceparent_of(context, span_id)}

    def step(self, name: str) -> Place:
        """Return the place of a step, which has a span of its own."""
        span = self._tracer.start_span(f"step {name}", set_span_in_context(self._span))
        return Place(self._tracer, self._ids, span, self._epoch, owns=True)

    def finish(self, times: JobTimes) -> None:
        """Write the spans of the queue, of the way to the worker, and of the worker."""
        context = self._span.get_span_context()
        if context.trace_flags.sampled:
            parent = set_span_in_context(NonRecordingSpan(context))
            for name, begin, end in (
                ("queue", times.arrived, times.dispatched or times.ended),
                ("dispatch", times.dispatched, times.started),
                ("worker", times.started, times.ended),
            ):
                if begin and end >= begin:
                    self._ids.next = self._worker_id if name == "worker" else 0
                    span = self._tracer.start_span(name, parent, start_time=self._nanoseconds(begin))
                    if name == "worker":
                        span.set_attribute("frame.batch_size", times.batch_size)
                        span.set_attribute("frame.inference_seconds", times.inference)
                    span.end(self._nanoseconds(end))
        if self._owns:
            self._span.end()

    def _nanoseconds(self, seconds: float) -> int:
        return self._epoch + int(seconds * _SECONDS)


def traceparent_of(context: SpanContext, span_id: int = 0) -> str:
    """Write a place in a trace as W3C's header; `span_id` in place of the context's own."""
    return f"00-{context.trace_id:032x}-{span_id or context.span_id:016x}-{context.trace_flags:02x}"


def _exporter(environ: Mapping[str, str]) -> SpanExporter | None:
    name = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name not in EXPORTERS:
        raise ConfigError(f"OTEL_TRACES_EXPORTER={name}: expected one of {', '.join(EXPORTERS)}")
    if name == "none":
        return None
    if name == "console":
        return ConsoleSpanExporter()
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "http/protobuf"}:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: expected http/protobuf")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()

"""The data plane: inference requests from ASGI to the workload manager and back, without a web framework."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from frame.contract.requests import RequestError
from frame.errors import BadRequestError, FrameError
from frame.http.answers import common_headers, request_id_from
from frame.http.intake import ClientGoneError, Intake
from frame.http.invocation import Adapter, Headers, Invocation
from frame.http.later import STARTING_TOKEN, LaterResults, Recording, is_later
from frame.http.routes import Found
from frame.http.servers import Receive, Scope, Send
from frame.http.settings import DataPlaneSettings
from frame.http.time_limits import asked_seconds, time_limit
from frame.http.watch import ClientWatch
from frame.pool.jobs import Answer, Job, JobStream, StreamStalledError
from frame.pool.manager import WorkloadManager
from frame.pool.metrics import outcome_of
from frame.pool.model import ModelPool
from frame.pool.payload import Payload
from frame.pool.quarantine import check_quarantine
from frame.pool.shadow import Shadows
from frame.pool.tracing import TRACE_KEY, JobTrace
from frame.pool.traffic import ModelTraffic, text_of
from frame.pool.workflow import Served, WorkflowPool
from frame.worker.codecs.multipart import is_form, split_form

_log = logging.getLogger(__name__)
DEFAULT_PRIORITY = 3  # DJL Serving's, for requests without x-priority
_MAX_FORM_BYTES = 64 << 10
TIMINGS_HEADER = "x-frame-timings"
VERSION_HEADER = b"x-frame-model-version"
"""Tells which version answered, where traffic rules chose it."""
_FORBIDDEN = frozenset(
    {
        *(
            "connection",
            "content-length",
            "date",
            "expires",
            "keep-alive",
            "pragma",
            "proxy-connection",
            "server",
        ),
        *("te", "trailer", "transfer-encoding", "upgrade", "x-frame-model-version", "x-request-id"),
    }
)
"""Headers that belong to the HTTP server; a handler's own value would break the framing."""
_NO_BODY = frozenset({204, 304})


class DataPlane:
    """One ASGI callable for all prediction paths.

    Every request ends with an answer or with its client gone.
    """

    def __init__(
        self, manager: WorkloadManager, adapters: dict[str, tuple[Adapter, str]], settings: DataPlaneSettings
    ) -> None:
        """Take requests for `manager`'s models.

        Args:
            adapters: by protocol name: the router half, and the dotted name of the worker half.
        """
        self._manager = manager
        self._adapters = adapters
        self._settings = settings
        self._intake = Intake(
            max_bytes=settings.max_request_size, budget=manager.budget, read_timeout=settings.body_timeout
        )
        self._watch = ClientWatch()
        self._ids = manager.job_ids
        self._shadows = Shadows(manager.find, manager.budget, self._ids)
        self._loop = asyncio.get_running_loop()
        self.later = LaterResults(settings.async_result_max_bytes, settings.async_result_expiry)

    async def run(self) -> None:
        """Look after slow bodies and vanished clients until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await asyncio.sleep(self._settings.sweep_interval)
                    now = time.monotonic()
                    self._intake.sweep(now)
                    self._watch.sweep(now, tasks)
                    self.later.sweep(now)
        finally:
            self.later.close()

    def check_model(self, found: Found) -> None:
        """Raise `ModelNotFoundError` when the path names a model that is not there."""
        name = found.parameters.get("model")
        if name is not None:
            self._manager.require(name, found.parameters.get("version"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send, found: Found) -> None:
        """Answer one request."""
        headers: Headers = scope["headers"]
        request_id = request_id_from(headers, self._settings.request_id_header)
        adapter, codec = self._adapters[found.endpoint.protocol or "djl"]
        started = time.monotonic()
        pool: Served | None = None
        try:
            invocation = adapter.invocation(found.parameters, scope["query_string"], headers, request_id)
            if STARTING_TOKEN in invocation.properties:
                await self.later.send_page(send, invocation.properties, request_id)
                return
            if invocation.model is None:
                invocation.model = self._manager.only_model()
            if invocation.model is not None:
                pool = self._manager.route(invocation.model, invocation.version)
                pool.check_ready()
            head = self._head(invocation, codec, request_id, scope.get(TRACE_KEY))
            payload = await self._intake.read(invocation.properties, receive)
            if pool is None or self._is_stale(pool, invocation):  # not named by the path, or replaced since
                pool = self._find_after(invocation, payload)
            recording, job = self._prepare(head, invocation, payload, pool)
        except ClientGoneError:
            return
        except FrameError as error:
            if pool is not None:
                pool.metrics.count_request(outcome_of(error.status), time.monotonic() - started)
            await self._send_error(send, adapter, request_id, error)
            return
        traffic = None if invocation.version else self._manager.traffic.find(pool.plan.name)
        if recording is None:
            await self._run_whole(_Exchange(receive, send, traffic), adapter, pool, job, payload)
            return
        exchange = _Exchange(recording.receive, recording.send, traffic)
        await self.later.begin(recording, self._run_whole(exchange, adapter, pool, job, payload))
        await self.later.send_begun(send, recording, request_id)

    # --- in -----------------------------------------------------------------------------------

    def _is_stale(self, pool: Served, invocation: Invocation) -> bool:
        """Tell whether another version is to be chosen, now that the body is here."""
        if pool.is_closing or invocation.version is not None or isinstance(pool, WorkflowPool):
            return pool.is_closing
        traffic = self._manager.traffic.find(pool.plan.name)
        return traffic is not None and not (pool.status == "READY" and traffic.gives(pool))

    def _find_after(self, invocation: Invocation, payload: Payload) -> Served:
        """Find the model once the body is here, if need be by a form field; free the body if that fails."""
        try:
            name = invocation.model or _named_in_body(invocation, payload)
            if name is None:
                raise BadRequestError("Parameter model_name is required.")
            return self._manager.route(name, invocation.version)
        except FrameError:
            self._intake.release(payload, payload.size_bytes)
            raise

    def _head(self, invocation: Invocation, codec: str, request_id: str, trace: JobTrace | None) -> _Head:
        if trace is not None:
            invocation.properties.update(trace.properties())
        return _Head(
            trace=trace,
            request_id=request_id,
            codec="" if codec == self._settings.default_codec else codec,
            priority=_priority(invocation.properties),
            asked_seconds=asked_seconds(invocation.properties),
        )

    def _job(self, head: _Head, invocation: Invocation, payload: Payload, pool: Served) -> Job:
        limit = time_limit(head.asked_seconds, pool.plan.config)
        now = time.monotonic()
        parts = [(key, Payload(value)) for key, value in invocation.parts]
        parts.append(("data", payload))
        return Job(
            id=next(self._ids),
            request_id=head.request_id,
            properties=invocation.properties,
            parts=parts,
            codec=head.codec,
            priority=head.priority,
            arrived=now,
            deadline=now + limit.seconds,
            limited_by=limit.source,
            answer=self._loop.create_future(),
            size_bytes=payload.size_bytes,
            trace=head.trace,
        )

    def _prepare(
        self, head: _Head, invocation: Invocation, payload: Payload, pool: Served
    ) -> tuple[Recording | None, Job]:
        """Return the job, and where its answer is kept that is fetched later; a failure frees the body."""
        try:
            recording = self.later.open() if is_later(invocation.properties) else None
            return recording, self._job(head, invocation, payload, pool)
        except BaseException:
            self._intake.release(payload, payload.size_bytes)
            raise

    # --- out ----------------------------------------------------------------------------------

    async def _run_whole(
        self, exchange: _Exchange, adapter: Adapter, pool: Served, job: Job, payload: Payload
    ) -> None:
        size_bytes = job.size_bytes
        try:
            await self._run(exchange, adapter, pool, job)
        finally:
            self._intake.release(payload, size_bytes)

    async def _run(self, exchange: _Exchange, adapter: Adapter, pool: Served, job: Job) -> None:
        traffic = exchange.traffic
        if traffic is not None and isinstance(pool, ModelPool):
            job.watcher = traffic.watcher(pool)
            if traffic.rules.shares:
                version = text_of(pool.plan.version).encode("latin-1", "replace")
                exchange.headers = ((VERSION_HEADER, version),)
        try:
            if pool.quarantine:
                await check_quarantine(pool.quarantine, job, time.monotonic)
            pool.submit(job)
        except asyncio.CancelledError:
            job.close()
            raise
        except FrameError as error:
            job.close()
            pool.metrics.count_request(outcome_of(error.status), 0.0)
            job.tell(outcome_of(error.status), 0.0)
            await self._send_error(exchange.send, adapter, job.request_id, error, exchange.headers)
            return
        shadow = traffic.shadow_of(pool) if traffic is not None and isinstance(pool, ModelPool) else None
        if shadow is not None:
            self._shadows.copy(job, pool.plan.name, *shadow)
        watched = self._watch.add(job, exchange.receive, pool)
        try:
            answer = await job.answer
            if answer.stream is not None and not answer.type_name:
                watched.begin_now()
                await self._send_stream(exchange, pool, job, answer, answer.stream)
            else:
                await self._send_answer(exchange, adapter, job, answer)
        except asyncio.CancelledError:
            pool.cancel(job)
            if not watched.client_is_gone:
                raise
        finally:
            self._watch.remove(watched)

    async def _send_answer(self, exchange: _Exchange, adapter: Adapter, job: Job, answer: Answer) -> None:
        headers = [*common_headers(job.request_id), *exchange.headers]
        status = answer.status
        if answer.type_name and answer.body is None:
            status = self._settings.status_of(answer.type_name, status)
            own, body = adapter.error(status, answer.type_name, answer.message)
            headers += own
            if status == 503:  # noqa: PLR2004
                headers.append((b"retry-after", b"1"))
        else:
            body = answer.body or b""  # type: ignore[assignment]  # a view is sent as it is
        if answer.properties:
            headers += _headers_of(answer.properties)
        if status in _NO_BODY:
            body = b""
        else:
            headers.append((b"content-length", str(len(body)).encode()))
        if TIMINGS_HEADER in job.properties:
            headers += _timings(job, time.monotonic())
        await exchange.send({"type": "http.response.start", "status": status, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": body})

    async def _send_stream(
        self, exchange: _Exchange, pool: Served, job: Job, answer: Answer, stream: JobStream
    ) -> None:
        """Pass chunks on as they come; a broken stream ends the connection, so that the client notices."""
        headers = [*common_headers(job.request_id), *exchange.headers, *_headers_of(answer.properties)]
        limit = self._settings.chunk_timeout
        try:
            await exchange.send({"type": "http.response.start", "status": answer.status, "headers": headers})
            while (chunk := await stream.next(limit)) is not None:
                async with asyncio.timeout(limit):
                    await exchange.send(
                        {"type": "http.response.body", "body": bytes(chunk), "more_body": True}
                    )
            await exchange.send({"type": "http.response.body", "body": b""})
        except StreamStalledError:
            pool.give_up(job)
            raise
        finally:
            stream.close()

    async def _send_error(
        self,
        send: Send,
        adapter: Adapter,
        request_id: str,
        error: FrameError,
        more: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        status = self._settings.status_of(error.type_name, error.status)
        own, body = adapter.error(status, error.type_name, str(error))
        headers = [*common_headers(request_id), *more, *own, (b"content-length", str(len(body)).encode())]
        if error.retry_after is not None or status == 503:  # noqa: PLR2004
            headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after or 1.0))).encode()))
        if status in {408, 413}:  # the rest of the body is not read
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What is known of a request before its body is read."""

    request_id: str
    codec: str
    priority: int
    asked_seconds: float | None
    trace: JobTrace | None


class _Exchange:
    """The two ways to talk to one client, and the rules that its request was routed by."""

    __slots__ = ("headers", "receive", "send", "traffic")

    def __init__(self, receive: Receive, send: Send, traffic: ModelTraffic | None) -> None:
        self.receive = receive
        self.send = send
        self.traffic = traffic
        self.headers: tuple[tuple[bytes, bytes], ...] = ()


def _named_in_body(invocation: Invocation, payload: Payload) -> str | None:
    """Return the form field that names the model; only a short form is looked into."""
    content_type = invocation.properties.get("content-type", "")
    if invocation.model_field is None or payload.size_bytes > _MAX_FORM_BYTES or not is_form(content_type):
        return None
    try:
        fields = split_form(b"".join(payload.segments), content_type)
    except RequestError as error:
        raise BadRequestError(error.message) from error
    named = (bytes(field.data) for field in fields if field.key == invocation.model_field)
    return next(named, b"").decode("utf-8", "replace") or None


def _priority(properties: dict[str, str]) -> int:
    text = properties.get("x-priority")
    if text is None:
        return DEFAULT_PRIORITY
    try:
        return max(-1000, min(1000, int(text)))  # what a client counts is capped
    except ValueError:
        raise BadRequestError(f"x-priority: {text[:20]!r} is not a whole number") from None


def _headers_of(properties: dict[str, str]) -> Headers:
    return [pair for key, value in properties.items() if (pair := _header(key, value)) is not None]


@lru_cache(maxsize=1024)
def _header(key: str, value: str) -> tuple[bytes, bytes] | None:
    """Return an answer's property as a header.

    None for one that HTTP does not allow or that is not a model's.
    """
    name = key.lower()
    if name in _FORBIDDEN or not name or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name):
        return None
    text = value.strip()
    if not name.isascii() or any(
        (c < " " and c != "\t") or c == "\x7f" for c in text
    ):  # RFC 9110, section 5.5
        return None
    return name.encode(), text.encode("latin-1", "replace")


def _timings(job: Job, now: float) -> Headers:
    """Return where the request's time went, as headers for a client that asked."""
    queued = (job.dispatched or now) - job.arrived
    values = (
        (b"x-frame-queue-seconds", f"{queued:.6f}"),
        (b"x-frame-batch-size", str(job.batch_size)),
        (b"x-frame-inference-seconds", f"{job.inference:.6f}"),
        (b"x-frame-total-seconds", f"{now - job.arrived:.6f}"),
    )
    return [(name, value.encode()) for name, value in values]

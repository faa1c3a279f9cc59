"""The control plane: a Quart app for health, models, metrics and the API's description."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from quart import Quart, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from frame.errors import (
    BadRequestError,
    FrameError,
    MethodNotAllowedError,
    ModelNotFoundError,
    ResourceNotFoundError,
)
from frame.http import answers, descriptions
from frame.http.explanations import explanation_body, explanation_text
from frame.http.host import ModelHost, ModelRegistry, ModelView
from frame.http.management import MAX_BODY_BYTES, Handler, management_handlers
from frame.http.openapi import openapi_document
from frame.http.routes import ANY_METHOD, Endpoint, RouteTable
from frame.http.traffic import traffic_body

PAGE_LIMIT = 100  # DJL Serving's default and maximum for GET /models
TEXT_TYPE = "text/plain; charset=utf-8"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ItemT = TypeVar("ItemT")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_INTEGER = re.compile(r"-?[0-9]{1,9}")  # more digits than any count has

_log = logging.getLogger(__name__)


def create_app(
    host: ModelHost,
    registry: CollectorRegistry,
    routes: RouteTable,
    *,
    models: ModelRegistry | None = None,
    allow_multi_status: bool = False,
    unhealthy_fails: bool = False,
    request_id_header: str = answers.REQUEST_ID_HEADER.decode(),
) -> Quart:
    """Build the app that answers every control-plane endpoint of `routes`.

    Args:
        host: the server that is shown.
        registry: metrics to show; the app adds none of its own.
        routes: the table; its control-plane rows are served here.
        models: what the routes of class *control* change; None: they are left out.
        allow_multi_status: `/ping` answers 207 instead of 200 while a model is PENDING.
        unhealthy_fails: `/ping` answers 500 also while a model is Unhealthy.
        request_id_header: name of the header that carries the client's request id.

    Raises:
        LookupError: the table names a control-plane operation that has no handler here.
    """
    app = Quart("frame.http.control", static_folder=None)
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    failing = frozenset({"FAILED", "Unhealthy"} if unhealthy_fails else {"FAILED"})
    handlers = _handlers(host, registry, routes, failing, allow_multi_status=allow_multi_status)
    if models is None:
        routes = routes.restricted_to("inference", "observe")
    else:
        handlers |= management_handlers(models)
    for endpoint in routes.endpoints:
        if endpoint.plane == "control":
            _add(app, endpoint, handlers[endpoint.name])
    _add_answers(app, request_id_header.lower().encode())
    return app


def _add(app: Quart, endpoint: Endpoint, handler: Handler) -> None:
    rule = endpoint.path.replace("{", "<").replace("}", ">")
    methods = _METHODS if ANY_METHOD in endpoint.methods else endpoint.methods
    app.add_url_rule(rule, endpoint.name, handler, methods=list(methods), provide_automatic_options=False)


def _handlers(
    host: ModelHost,
    registry: CollectorRegistry,
    routes: RouteTable,
    failing: frozenset[str],
    *,
    allow_multi_status: bool,
) -> dict[str, Handler]:
    document = answers.pretty_json(openapi_document(routes))

    async def ping() -> Response:
        if host.is_draining:
            return _failure(503, "ModelNotReadyError", "The server is ending and takes no more requests.")
        body = descriptions.ping_body(host.models())
        states = {entry["status"] for entry in body.values()}
        return _json(body, 500 if states & failing else _ping_status(states, allow_multi_status))

    async def describe_api() -> Response:
        return Response(document, content_type="application/json")

    async def explain_model(model: str, version: str | None = None) -> Response:
        explained = host.explain(model, version)
        if _wants_text():
            return Response(explanation_text(explained), content_type=TEXT_TYPE)
        return _json(explanation_body(explained))

    async def describe_traffic(model: str) -> Response:
        return _json(traffic_body(model, host.describe_traffic(model)))

    async def metrics() -> Response:
        names = frozenset(request.args.getlist("name[]"))
        text = generate_latest(_Selection(registry, names))
        return Response(text, content_type=METRICS_TYPE)

    return {
        **_listings(host),
        "ping": ping,
        "describe_api": describe_api,
        "explain_model": explain_model,
        "explain_model_version": explain_model,
        "describe_traffic": describe_traffic,
        "metrics": metrics,
        "metrics_short": metrics,
    }


def _listings(host: ModelHost) -> dict[str, Handler]:
    """Return what shows models and workflows."""

    async def list_models() -> Response:
        views, token = _page(descriptions.in_order(host.models()))
        entries = [descriptions.list_entry(view) for view in views]
        return _json({"nextPageToken": token, "models": entries})

    async def describe_model(model: str, version: str | None = None) -> Response:
        return _json(_described(host, model, version))

    async def list_workflows() -> Response:
        members = {name for view in host.workflows() for name in view.models}
        alone = (view for view in host.models() if view.name not in members)
        names = sorted(
            {(view.name, view.version or "") for view in host.workflows()}
            | {(view.name, view.version or "") for view in alone}
        )
        page, token = _page(names)
        entries = [{"workflowName": name, "version": version or None} for name, version in page]
        return _json({"nextPageToken": token, "workflows": entries})

    async def describe_workflow(workflow: str, version: str | None = None) -> Response:
        return _json(_described(host, workflow, version))

    return {
        "list_models": list_models,
        "describe_model": describe_model,
        "describe_model_version": describe_model,
        "list_workflows": list_workflows,
        "describe_workflow": describe_workflow,
        "describe_workflow_version": describe_workflow,
    }


def _ping_status(states: set[object], allow_multi_status: bool) -> int:  # noqa: FBT001  # a setting, passed on
    return 207 if "PENDING" in states and allow_multi_status else 200


def _described(host: ModelHost, name: str, version: str | None) -> list[dict[str, object]]:
    """Return each version of a workflow or of a model."""
    wanted = None if version == "default" else version
    found = [
        view for view in host.workflows() if view.name == name and (version is None or view.version == wanted)
    ]
    if found:
        found.sort(key=lambda view: view.version or "")
        return [descriptions.describe_workflow(view, host.models()) for view in found]
    return [descriptions.describe(view) for view in _versions(host.models(), name, version)]


def _page(items: Sequence[ItemT]) -> tuple[Sequence[ItemT], str | None]:
    """Return the items of the page that is asked for, and the token of the next one.

    Raises:
        BadRequestError: a parameter is no number.
    """
    limit = _integer("limit", PAGE_LIMIT)
    if not 0 < limit <= PAGE_LIMIT:
        limit = PAGE_LIMIT  # as DJL Serving does, instead of an error
    start = max(0, _integer("next_page_token", 0))
    end = start + limit
    return items[start:end], str(end) if end < len(items) else None


def _wants_text() -> bool:
    """Tell whether plain words are asked for: by `format`, or else by the Accept header."""
    chosen = request.args.get("format")
    if chosen is None:
        return request.accept_mimetypes.best_match(["application/json", "text/plain"]) == "text/plain"
    if chosen not in {"json", "text"}:
        raise BadRequestError("Parameter format: expected json or text.")
    return chosen == "text"


def _integer(name: str, default: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if _INTEGER.fullmatch(text) is None:
        raise BadRequestError(f"Parameter {name}: expected an integer.")
    return int(text)


def _versions(views: Iterable[ModelView], model: str, version: str | None) -> list[ModelView]:
    """Pick a model's versions; `default` names the one without a version, as in DJL Serving."""
    wanted = None if version == "default" else version
    found = [view for view in views if view.name == model and (version is None or view.version == wanted)]
    if not found:
        suffix = "" if version is None else f", version {version}"
        raise ModelNotFoundError(f"Model not found: {model}{suffix}. GET /models lists what is served.")
    return descriptions.in_order(found)


class _Selection:
    """The metrics of a registry whose names were asked for; all of them when none was."""

    def __init__(self, registry: CollectorRegistry, names: frozenset[str]) -> None:
        self._registry = registry
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if not self._names or self._names & {metric.name, f"{metric.name}_total"}:
                yield metric


def _add_answers(app: Quart, request_id_header: bytes) -> None:
    """Give every answer the common headers, and every failure the error JSON."""

    async def note_request_id() -> None:
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        g.request_id = answers.request_id_from(raw, request_id_header)

    async def add_headers(response: Response) -> Response:
        for name, value in answers.common_headers(g.request_id):
            response.headers[name.decode()] = value.decode("latin-1")
        return response

    async def answer_failure(error: Exception) -> Response:
        return _failure_of(error)

    app.before_request(note_request_id)
    app.after_request(add_headers)
    app.register_error_handler(Exception, answer_failure)


def _failure_of(error: Exception) -> Response:
    match error:
        case NotFound():
            return _failure(404, ResourceNotFoundError.__name__, answers.NOT_FOUND_MESSAGE)
        case MethodNotAllowed():
            response = _failure(405, MethodNotAllowedError.__name__, answers.NOT_ALLOWED_MESSAGE)
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
            return response
        case FrameError():
            return _failure(error.status, error.type_name, str(error))
        case HTTPException():
            return _failure(error.code or 500, type(error).__name__, error.description or error.name)
        case _:
            _log.error(
                "control_request_failed request=%s path=%r", g.request_id, request.path, exc_info=error
            )
            return _failure(
                500, "InternalServerError", f"Internal error; see {g.request_id} in the server's log."
            )


def _failure(code: int, type_name: str, message: str) -> Response:
    return Response(
        answers.error_body(code, type_name, message), status=code, content_type="application/json"
    )


def _json(body: object, status: int = 200) -> Response:
    return Response(answers.pretty_json(body), status=status, content_type="application/json")

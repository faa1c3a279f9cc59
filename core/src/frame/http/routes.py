"""The one table of routes that the router, the OpenAPI document and the docs read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from frame.api import Protocol
from frame.builtins import frame_protocols

RouteClass = Literal["inference", "observe", "control"]
Plane = Literal["data", "control"]

ANY_METHOD = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One row: what is served where.

    Attributes:
        name: the operation, unique in a table; the control plane finds its handler by it.
        path: template; `{model}` stands for one path segment.
        methods: in upper case; `*` for any.
        route_class: *inference* is on every listener, *observe* reads, *control* changes something.
        plane: who answers: the raw ASGI data plane or the Quart control plane.
        summary: one line for people.
        protocol: name of the protocol it came with; None for the server's own.
    """

    name: str
    path: str
    methods: tuple[str, ...]
    route_class: RouteClass
    plane: Plane
    summary: str
    protocol: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the template's `{parameters}`, in order."""
        return tuple(part[1:-1] for part in self.path.split("/") if _is_parameter(part))

    def allows(self, method: str) -> bool:
        """Whether the endpoint answers `method`; HEAD goes wherever GET does."""
        wanted = "GET" if method == "HEAD" else method
        return ANY_METHOD in self.methods or method in self.methods or wanted in self.methods


def _observe(name: str, path: str, summary: str) -> Endpoint:
    return Endpoint(
        name=name, path=path, methods=("GET",), route_class="observe", plane="control", summary=summary
    )


CONTROL_PLANE: tuple[Endpoint, ...] = (
    Endpoint(
        name="ping",
        path="/ping",
        methods=("GET",),
        route_class="inference",  # SageMaker and load balancers ask on the inference listener
        plane="control",
        summary="Health of every model; 500 when one has failed, 503 while the server ends",
    ),
    Endpoint(
        name="describe_api",
        path="/",
        methods=("OPTIONS",),
        route_class="inference",
        plane="control",
        summary="This API as an OpenAPI document",
    ),
    Endpoint(
        name="list_models",
        path="/models",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="Models by name, a page at a time",
    ),
    Endpoint(
        name="describe_model",
        path="/models/{model}",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="Every version of a model: workers, signature, settings and where they came from",
    ),
    Endpoint(
        name="describe_model_version",
        path="/models/{model}/{version}",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="One version of a model",
    ),
    Endpoint(
        name="explain_model",
        path="/models/{model}/explain",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="Why a model batches and scales as it does, and what would change it",
    ),
    Endpoint(
        name="explain_model_version",
        path="/models/{model}/{version}/explain",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="The same of one version",
    ),
    Endpoint(
        name="describe_traffic",
        path="/models/{model}/traffic",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="How requests are shared among a model's versions, and what came of it",
    ),
    _observe("list_workflows", "/workflows", "Workflows, and models as workflows of one, a page at a time"),
    _observe("describe_workflow", "/workflows/{workflow}", "Every version of a workflow, with its models"),
    _observe("describe_workflow_version", "/workflows/{workflow}/{version}", "One version of a workflow"),
    Endpoint(
        name="metrics",
        path="/server/metrics",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="Metrics in Prometheus' text format",
    ),
    Endpoint(
        name="metrics_short",
        path="/metrics",
        methods=("GET",),
        route_class="observe",
        plane="control",
        summary="The same, where Prometheus looks",
    ),
)
"""The server's own routes; protocols add theirs of class *inference* on the data plane."""


def _control(name: str, method: str, path: str, summary: str) -> Endpoint:
    return Endpoint(
        name=name, path=path, methods=(method,), route_class="control", plane="control", summary=summary
    )


MANAGEMENT: tuple[Endpoint, ...] = (
    _control("register_model", "POST", "/models", "Serve one more model, or one more version"),
    _control("scale_model", "PUT", "/models/{model}", "Set how many workers each version has"),
    _control("scale_model_version", "PUT", "/models/{model}/{version}", "The same of one version"),
    _control("change_model", "PATCH", "/models/{model}", "Change settings, of each version"),
    _control("change_model_version", "PATCH", "/models/{model}/{version}", "The same of one version"),
    _control("unregister_model", "DELETE", "/models/{model}", "Serve a model no longer, all its versions"),
    _control("unregister_model_version", "DELETE", "/models/{model}/{version}", "The same of one version"),
    _control("set_traffic", "PUT", "/models/{model}/traffic", "Share requests among a model's versions"),
    _control("forget_traffic", "DELETE", "/models/{model}/traffic", "The newest version gets all again"),
    _control("register_workflow", "POST", "/workflows", "Serve one more workflow, with its models"),
    _control("scale_workflow", "PUT", "/workflows/{workflow}", "Set how many workers each of its models has"),
    _control("scale_workflow_version", "PUT", "/workflows/{workflow}/{version}", "The same of one version"),
    _control("unregister_workflow", "DELETE", "/workflows/{workflow}", "Serve a workflow no longer"),
    _control(
        "unregister_workflow_version", "DELETE", "/workflows/{workflow}/{version}", "The same of one version"
    ),
    _control("set_logging", ANY_METHOD, "/server/logging", "Set the level of the server's log"),
)
"""The routes that change something: on loopback listeners, or with a token (`http.guard`)."""


_INVOKE = "invoke"
MULTI_MODEL = frozenset({"register_model", "list_models", "describe_model", "unregister_model", _INVOKE})
"""Names of the routes of SageMaker's multi-model contract, which the platform asks without a token."""


@dataclass(frozen=True, slots=True)
class Found:
    """The endpoint that answers, with its decoded path parameters."""

    endpoint: Endpoint
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NoSuchMethod:
    """The path exists, the method does not: 405 with these in the Allow header."""

    allowed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoSuchPath:
    """Nothing is served there: 404."""


Resolved = Found | NoSuchMethod | NoSuchPath


class RouteTable:
    """Endpoints in order, and the way from a request line to one of them.

    Invariants:
        Names are unique, and so are (path, method) pairs: two rows never claim the same request.
        A literal segment wins over a parameter, whatever the order of the rows.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._by_length: dict[int, list[tuple[tuple[str, ...], Endpoint]]] = {}
        for endpoint in self.endpoints:
            segments = tuple(endpoint.path.split("/")[1:])
            self._by_length.setdefault(len(segments), []).append((segments, endpoint))
        for rows in self._by_length.values():
            rows.sort(key=lambda row: [_is_parameter(part) for part in row[0]])
        self._refuse_clashes()

    def resolve(self, method: str, raw_path: str) -> Resolved:
        """Find who answers `method` on `raw_path`.

        Args:
            method: in upper case.
            raw_path: still percent-encoded, without the query, so that `%2F` stays inside its segment.
        """
        parts = raw_path.split("/")[1:]
        allowed: list[str] = []
        for segments, endpoint in self._by_length.get(len(parts), ()):
            if not _matches(segments, parts):
                continue
            if endpoint.allows(method):
                pairs = zip(segments, parts, strict=True)
                return Found(endpoint, {s[1:-1]: unquote(p) for s, p in pairs if _is_parameter(s)})
            allowed.extend(endpoint.methods)
        return NoSuchMethod(tuple(dict.fromkeys(allowed))) if allowed else NoSuchPath()

    def restricted_to(self, *classes: RouteClass) -> RouteTable:
        """Return the table of a listener that carries these classes alone; all other paths are 404 there."""
        return RouteTable(endpoint for endpoint in self.endpoints if endpoint.route_class in classes)

    def _refuse_clashes(self) -> None:
        names: set[str] = set()
        claimed: dict[tuple[str, ...], list[Endpoint]] = {}
        for endpoint in self.endpoints:
            if endpoint.name in names:
                raise ValueError(f"route {endpoint.name} ({endpoint.path}): the name is taken")
            names.add(endpoint.name)
            shape = tuple("{}" if _is_parameter(part) else part for part in endpoint.path.split("/"))
            for other in claimed.setdefault(shape, []):
                if _share_a_method(endpoint, other):
                    raise ValueError(f"routes {other.name} and {endpoint.name} both claim {endpoint.path}")
            claimed[shape].append(endpoint)


def endpoints_of(protocol: Protocol) -> tuple[Endpoint, ...]:
    """Turn the routes that a protocol plugin declares into rows of the table."""
    return tuple(
        Endpoint(
            name=_name_of(protocol, route.path, number),
            path=route.path,
            methods=tuple(method.upper() for method in route.methods),
            route_class="inference",
            plane="data",
            summary=_summary(route.path),
            protocol=protocol.name,
        )
        for number, route in enumerate(protocol.routes, start=1)
    )


def default_table() -> RouteTable:
    """The routes of a server without protocol plugins: DJL Serving's predictions and the server's own."""
    own = (endpoint for protocol in frame_protocols() for endpoint in endpoints_of(protocol))
    return RouteTable((*own, *CONTROL_PLANE, *MANAGEMENT))


def _name_of(protocol: Protocol, path: str, number: int) -> str:
    is_invoke = protocol.name == "djl" and path.endswith(f"/{_INVOKE}")
    return _INVOKE if is_invoke else f"{protocol.name}_{number}"


def _summary(path: str) -> str:
    if "{version}" in path:
        return "Run one version of a model"
    if "{model}" in path:
        return "Run a model, its newest version"
    return "Run the model named by model_name, or the only one"


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{")


def _matches(segments: tuple[str, ...], parts: list[str]) -> bool:
    pairs = zip(segments, parts, strict=True)
    return all(part != "" if _is_parameter(segment) else part == segment for segment, part in pairs)


def _share_a_method(one: Endpoint, other: Endpoint) -> bool:
    return (
        ANY_METHOD in one.methods
        or ANY_METHOD in other.methods
        or not set(one.methods).isdisjoint(other.methods)
    )

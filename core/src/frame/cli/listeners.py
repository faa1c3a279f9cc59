"""What is served where: the listeners of a server and the app of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from frame.config.forms import Address
from frame.config.settings import ServerConfig
from frame.contract.protocols import Protocol
from frame.errors import ConfigError
from frame.http.access_log import AccessLog
from frame.http.app import FrameApp, Traces
from frame.http.control import create_app
from frame.http.dataplane import DataPlane
from frame.http.guard import Guard
from frame.http.host import ModelRegistry
from frame.http.invocation import Adapter
from frame.http.routes import CONTROL_PLANE, MANAGEMENT, MULTI_MODEL, RouteClass, RouteTable, endpoints_of
from frame.http.servers import AsgiApp
from frame.http.tls import TlsFiles
from frame.pool.manager import WorkloadManager
from frame.pool.metrics import FrameCollector
from frame.worker.loading import resolve

TOKEN_VARIABLE = "FRAME_MANAGEMENT_TOKEN"  # noqa: S105  # its name
INFERENCE_TOKEN_VARIABLE = "FRAME_INFERENCE_TOKEN"  # noqa: S105  # its name
_SHORTEST_TOKEN = 16
_ALL: tuple[RouteClass, ...] = ("inference", "observe", "control")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What requests must carry; None: nothing. The token of management opens all routes."""

    management: str | None = None
    inference: str | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """One address with the routes that it carries, and who decides about them."""

    address: Address
    table: RouteTable
    guard: Guard


def listeners(config: ServerConfig, protocols: list[Protocol], tokens: Tokens) -> list[Listening]:
    """Return the listeners of a server.

    A loopback address carries all routes. Another one carries inference (and `/ping`) alone, unless
    `management_address` was set to the same address. A `management_address` of its own carries the rest.
    Routes that observe or change something are on loopback addresses; elsewhere only where there is a token,
    or, for those that observe, at `observe_address`.
    """
    own = [endpoint for protocol in protocols for endpoint in endpoints_of(protocol)]
    inference, management = config.inference_address, config.management_address
    is_set = config.sources["management_address"].kind != "default"
    addresses = [inference]
    if is_set and management not in addresses:
        addresses.append(management)
    if config.observe_address is not None and config.observe_address not in addresses:
        addresses.append(config.observe_address)
    found = []
    for address in addresses:
        manages = address == management if is_set else address == inference and address.is_loopback
        classes = _classes(address, tokens) if manages else ("inference",)
        is_open = address == config.observe_address
        if is_open:
            classes = ("observe", *classes)
        if manages and "observe" not in classes:
            _log.warning("management_closed address=%s reason=no %s is set", address, TOKEN_VARIABLE)
        rows = (*(own if address == inference else ()), *CONTROL_PLANE, *MANAGEMENT)
        opened = MULTI_MODEL if config.multi_model and address == inference else frozenset()
        guard = Guard(
            tokens.management,
            inference=tokens.inference,
            observes_with_token=not (is_open or address.is_loopback),
            open_routes=opened,
        )
        carried = [row for row in rows if row.route_class in classes or row.name in opened]
        found.append(Listening(address, RouteTable(carried), guard))
    return found


def _classes(address: Address, tokens: Tokens) -> tuple[RouteClass, ...]:
    """Return what an address that manages may carry."""
    return _ALL if address.is_loopback or tokens.management is not None else ("inference",)


def read_tokens(config: ServerConfig, environ: Mapping[str, str]) -> Tokens:
    """Return the tokens that are set.

    Raises:
        ConfigError: a file cannot be read, or a token is too short or has white space in it.
    """
    return Tokens(
        management=_token(TOKEN_VARIABLE, "management_token_file", config.management_token_file, environ),
        inference=_token(
            INFERENCE_TOKEN_VARIABLE, "inference_token_file", config.inference_token_file, environ
        ),
    )


def _token(variable: str, key: str, path: str | None, environ: Mapping[str, str]) -> str | None:
    token, where = environ.get(variable, ""), variable
    if not token and path is not None:
        where = f"{key}={path}"
        try:
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read as ASCII text: {error}") from error
    elif not token:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(map(str.isspace, token)):
        raise ConfigError(f"{where}: expected at least {_SHORTEST_TOKEN} ASCII characters, no white space")
    return token


def app_maker(
    config: ServerConfig,
    manager: WorkloadManager,
    data_plane: DataPlane,
    models: ModelRegistry,
    tracing: Traces | None = None,
) -> Callable[[Listening], AsgiApp]:
    """Return what makes the app of a listener; the metrics are those of all listeners."""
    registry = CollectorRegistry()
    registry.register(
        FrameCollector(manager.metrics, lambda: manager.budget.used, lambda: data_plane.later.used_bytes)
    )

    def make(listening: Listening) -> AsgiApp:
        table = listening.table
        control = create_app(
            manager,
            registry,
            table,
            models=models,
            allow_multi_status=config.allow_multi_status,
            unhealthy_fails=config.health_check_override,
            request_id_header=config.request_id_header_key,
        )
        cors = tuple(_cors_headers(config))
        app = FrameApp(table, data_plane, control, cors=cors, guard=listening.guard, tracing=tracing)
        return AccessLog(app) if config.access_log else app

    return make


def make_tracing(config: ServerConfig, environ: Mapping[str, str]) -> Traces | None:
    """Return what writes spans; None where nobody wants them.

    Raises:
        ConfigError: OpenTelemetry is not installed, or its variables are wrong.
    """
    if not config.tracing:
        return None
    try:
        from frame.http.tracing import Tracing  # only where it is wanted
    except ImportError as error:
        remedy = "pip install 'frame-core[otel]'"
        raise ConfigError(f"tracing=true needs OpenTelemetry: {remedy} ({error})") from error
    return Tracing(environ)


def adapters(protocols: list[Protocol], config: ServerConfig) -> dict[str, tuple[Adapter, str]]:
    """Construct the router half of every protocol; with each the dotted name of its worker half."""
    allows = config.allow_request_handler_override
    return {
        item.name: (resolve(item.target)(allows_handler_override=allows), item.codec) for item in protocols
    }


def tls_files(config: ServerConfig) -> TlsFiles | None:
    """Return the certificate of https; None where none is named."""
    if config.certificate_file is None and config.keystore is None:
        return None
    return TlsFiles(
        certificate_file=config.certificate_file,
        private_key_file=config.private_key_file,
        keystore=config.keystore,
        keystore_pass=config.keystore_pass,
        keystore_type=config.keystore_type,
    )


def _cors_headers(config: ServerConfig) -> Iterator[tuple[bytes, bytes]]:
    for name, value in (
        (b"access-control-allow-origin", config.cors_allowed_origin),
        (b"access-control-allow-methods", config.cors_allowed_methods),
        (b"access-control-allow-headers", config.cors_allowed_headers),
    ):
        if value is not None:
            yield name, value.encode("latin-1", "replace")

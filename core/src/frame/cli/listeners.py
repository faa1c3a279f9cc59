"""What is served where: the listeners of a server and the app of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from frame.config.forms import Address
from frame.config.settings import ServerConfig
from frame.contract.protocols import Protocol
from frame.errors import ConfigError
from frame.http.app import FrameApp
from frame.http.control import create_app
from frame.http.dataplane import DataPlane
from frame.http.guard import Guard
from frame.http.host import ModelRegistry
from frame.http.invocation import Adapter
from frame.http.routes import CONTROL_PLANE, MANAGEMENT, RouteClass, RouteTable, endpoints_of
from frame.http.tls import TlsFiles
from frame.pool.manager import WorkloadManager
from frame.pool.metrics import FrameCollector
from frame.worker.loading import resolve

TOKEN_VARIABLE = "FRAME_MANAGEMENT_TOKEN"  # noqa: S105  # its name
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Listening:
    """One address with the routes that it carries."""

    address: Address
    table: RouteTable


def listeners(config: ServerConfig, protocols: list[Protocol], *, has_token: bool = False) -> list[Listening]:
    """Return the listeners of a server.

    A loopback address carries all routes. Another one carries inference (and `/ping`) alone, unless
    `management_address` was set to the same address. A `management_address` of its own carries the rest.
    Routes that change something are on loopback addresses; elsewhere only where there is a token.
    """
    inference = config.inference_address
    own = (endpoint for protocol in protocols for endpoint in endpoints_of(protocol))
    rest = (*CONTROL_PLANE, *MANAGEMENT)
    everything = RouteTable((*own, *rest))
    is_set = config.sources["management_address"].kind != "default"
    management = config.management_address
    if is_set and management != inference:
        return [
            Listening(inference, everything.restricted_to("inference")),
            Listening(management, RouteTable(rest).restricted_to(*_classes(management, has_token))),
        ]
    if inference.is_loopback or is_set:
        return [Listening(inference, everything.restricted_to(*_classes(inference, has_token)))]
    return [Listening(inference, everything.restricted_to("inference"))]


def _classes(address: Address, has_token: bool) -> tuple[RouteClass, ...]:  # noqa: FBT001  # passed on
    if address.is_loopback or has_token:
        return ("inference", "observe", "control")
    return ("inference", "observe")


def read_token(config: ServerConfig, environ: Mapping[str, str]) -> str | None:
    """Return the token of routes that change something; None where none is set.

    Raises:
        ConfigError: its file cannot be read, or it is too short or has white space in it.
    """
    token, where = environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
    if not token and config.management_token_file is not None:
        where = f"management_token_file={config.management_token_file}"
        try:
            token = Path(config.management_token_file).read_text(encoding="ascii").strip()
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
    token: str | None,
) -> Callable[[RouteTable], FrameApp]:
    """Return what makes the app of a listener; the metrics are those of all listeners."""
    registry = CollectorRegistry()
    registry.register(FrameCollector(manager.metrics, lambda: manager.budget.used))

    def make(table: RouteTable) -> FrameApp:
        control = create_app(
            manager,
            registry,
            table,
            models=models,
            allow_multi_status=config.allow_multi_status,
            request_id_header=config.request_id_header_key,
        )
        return FrameApp(table, data_plane, control, cors=tuple(_cors_headers(config)), guard=Guard(token))

    return make


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

"""What is served where: the listeners of a server and the app of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from frame.config.forms import Address
from frame.config.settings import ServerConfig
from frame.contract.protocols import Protocol
from frame.http.app import FrameApp
from frame.http.control import create_app
from frame.http.dataplane import DataPlane
from frame.http.invocation import Adapter
from frame.http.routes import CONTROL_PLANE, RouteTable, endpoints_of
from frame.http.tls import TlsFiles
from frame.pool.manager import WorkloadManager
from frame.pool.metrics import FrameCollector
from frame.worker.loading import resolve


@dataclass(frozen=True, slots=True)
class Listening:
    """One address with the routes that it carries."""

    address: Address
    table: RouteTable


def listeners(config: ServerConfig, protocols: list[Protocol]) -> list[Listening]:
    """Return the listeners of a server.

    A loopback address carries all routes. Another one carries inference (and `/ping`) alone, unless
    `management_address` was set to the same address. A `management_address` of its own carries the rest.
    """
    inference = config.inference_address
    own = (endpoint for protocol in protocols for endpoint in endpoints_of(protocol))
    everything = RouteTable((*own, *CONTROL_PLANE))
    is_set = config.sources["management_address"].kind != "default"
    management = config.management_address
    if is_set and management != inference:
        return [
            Listening(inference, everything.restricted_to("inference")),
            Listening(management, RouteTable(CONTROL_PLANE)),
        ]
    if inference.is_loopback or is_set:
        return [Listening(inference, everything)]
    return [Listening(inference, everything.restricted_to("inference"))]


def app_maker(
    config: ServerConfig, manager: WorkloadManager, data_plane: DataPlane
) -> Callable[[RouteTable], FrameApp]:
    """Return what makes the app of a listener; the metrics are those of all listeners."""
    registry = CollectorRegistry()
    registry.register(FrameCollector(manager.metrics, lambda: manager.budget.used))

    def make(table: RouteTable) -> FrameApp:
        control = create_app(
            manager,
            registry,
            table,
            allow_multi_status=config.allow_multi_status,
            request_id_header=config.request_id_header_key,
        )
        return FrameApp(table, data_plane, control, cors=tuple(_cors_headers(config)))

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

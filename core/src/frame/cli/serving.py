"""`frame serve`: put the parts together, run them in one loop, end them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from frame.cli.settings import CommandSettings
from frame.config.settings import ModelConfig, ServerConfig
from frame.contract.engines import EngineSpec
from frame.errors import FrameError
from frame.http.addresses import ListenAddress
from frame.http.app import FrameApp
from frame.http.control import create_app
from frame.http.dataplane import DataPlane
from frame.http.invocation import Adapter
from frame.http.routes import CONTROL_PLANE, RouteTable, endpoints_of
from frame.http.servers import serve
from frame.http.settings import data_plane_settings
from frame.http.tls import TlsFiles
from frame.plugins import Plugins
from frame.pool.budget import ByteBudget
from frame.pool.devices import place
from frame.pool.manager import BrokenModel, WorkloadManager, usable_cores
from frame.pool.metrics import FrameCollector
from frame.pool.plan import ModelPlan, make_plan
from frame.store.catalog import Catalog, build_catalog, models_cache
from frame.worker.session import resolve

_log = logging.getLogger("frame")
_FAILED_START = 1


def serve_forever(settings: CommandSettings, *, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    logging.basicConfig(
        level=log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for plugin in settings.plugins.broken:
        _log.error(
            "plugin_broken name=%s distribution=%s reason=%s", plugin.name, plugin.distribution, plugin.reason
        )
    catalog = build_catalog(
        settings.server, settings.models, settings.plugins.engines, settings.environ, lenient=settings.lenient
    )
    _report(settings.server, catalog)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Server(settings, catalog).run())


def _report(server: ServerConfig, catalog: Catalog) -> None:
    """Say what is odd about the configuration, and what cannot be served."""
    for text in (*server.warnings, *catalog.warnings):
        _log.warning("%s", text)
    for text in catalog.problems:
        _log.error("model_refused %s", text)
    for entry in catalog.entries:
        for text in entry.config.warnings if entry.config else ():
            _log.warning("model=%s %s", entry.name, text)
        for text in entry.problems:
            _log.error("model_refused model=%s %s", entry.name, text)


class _Server:
    """One run of the server."""

    def __init__(self, settings: CommandSettings, catalog: Catalog) -> None:
        self._settings = settings
        self._config = settings.server
        self._catalog = catalog
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Start everything, wait for the end, end everything in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_stop, number)
        manager = self._manager()
        async with asyncio.TaskGroup() as tasks:
            pools = tasks.create_task(manager.run())
            try:
                if self._config.wait_model_loading:
                    await self._first(tasks, manager.settled())
                self._check_loaded(manager)
                if not self._stop.is_set():
                    await self._serve(tasks, manager)
            except FrameError as error:
                _log.error("server_failed %s", error)  # the message says it all
                self._exit_code = error.exit_code
            finally:
                await manager.close(self._config.drain_timeout)
            await pools
        _log.info("server_ended exit=%d", self._exit_code)
        return self._exit_code

    async def _first(self, tasks: asyncio.TaskGroup, awaitable: object) -> None:
        """Wait until `awaitable` or a signal to end."""
        work = asyncio.ensure_future(awaitable)  # type: ignore[call-overload]  # a coroutine
        stopped = tasks.create_task(self._stop.wait())
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stopped):
            task.cancel()

    def _check_loaded(self, manager: WorkloadManager) -> None:
        """Say which models did not load; end when the operator wants that."""
        failed = [view for view in manager.models() if view.status == "FAILED"]
        for view in failed:
            _log.error("model_not_loaded model=%s reason=%s", view.name, view.reason)
        if failed and self._config.fail_fast:
            self._exit_code = _FAILED_START
            self._stop.set()

    async def _serve(self, tasks: asyncio.TaskGroup, manager: WorkloadManager) -> None:
        table = RouteTable(
            (
                *(endpoint for item in self._settings.plugins.protocols for endpoint in endpoints_of(item)),
                *CONTROL_PLANE,
            )
        )
        registry = CollectorRegistry()
        registry.register(FrameCollector(manager.metrics, lambda: manager.budget.used))
        settings = data_plane_settings(self._config)
        control = create_app(
            manager,
            registry,
            table,
            allow_multi_status=self._config.allow_multi_status,
            request_id_header=self._config.request_id_header_key,
        )
        data_plane = DataPlane(manager, _adapters(self._settings.plugins, self._config), settings)
        sweeper = tasks.create_task(data_plane.run())
        address = self._config.inference_address
        try:
            await serve(
                FrameApp(table, data_plane, control),
                address=ListenAddress(
                    scheme=address.scheme, host=address.host, port=address.port, path=address.path
                ),
                server=self._config.http_server,
                tls=_tls(self._config),
                stop=self._stop,
                ready=self._announce,
                graceful_timeout=self._config.drain_timeout,
            )
        finally:
            sweeper.cancel()

    def _announce(self, urls: Sequence[str]) -> None:
        for url in urls:
            _log.info("server_ready address=%s pid=%d", url, os.getpid())

    def _ask_stop(self, number: int) -> None:
        _log.info("server_stops signal=%s", signal.Signals(number).name)
        self._stop.set()

    def _manager(self) -> WorkloadManager:
        engines = {spec.name: spec for spec in self._settings.plugins.engines}
        plans: list[ModelPlan] = []
        broken: list[BrokenModel] = []
        for entry in self._catalog.entries:
            try:
                if entry.config is not None:
                    plans.append(self._plan(entry.config, engines[entry.config.engine], entry.url))
                    continue
                reason = "; ".join(entry.problems)
            except FrameError as error:
                reason = str(error)
            broken.append(BrokenModel(name=entry.name, version=entry.version, url=entry.url, reason=reason))
        cache = models_cache(self._config, self._settings.environ).parent
        return WorkloadManager(plans, broken, ByteBudget(self._config.max_queued_bytes), cache=Path(cache))

    def _plan(self, config: ModelConfig, engine: EngineSpec, url: str) -> ModelPlan:
        return make_plan(
            config,
            engine,
            url=url,
            interpreter=sys.executable,
            devices=place(config.load_on_devices, self._settings.environ),
            cores=usable_cores(),
            environ=self._settings.environ,
        )


def _adapters(plugins: Plugins, config: ServerConfig) -> dict[str, tuple[Adapter, str]]:
    """Construct the router half of every protocol."""
    return {
        protocol.name: (
            resolve(protocol.target)(allows_handler_override=config.allow_request_handler_override),
            protocol.codec,
        )
        for protocol in plugins.protocols
    }


def _tls(config: ServerConfig) -> TlsFiles | None:
    if config.certificate_file is None and config.keystore is None:
        return None
    return TlsFiles(
        certificate_file=config.certificate_file,
        private_key_file=config.private_key_file,
        keystore=config.keystore,
        keystore_pass=config.keystore_pass,
        keystore_type=config.keystore_type,
    )

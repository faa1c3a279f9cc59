"""`frame serve`: put the parts together, run them in one loop, end them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import uvloop

from frame.cli.listeners import (
    Listening,
    adapters,
    app_maker,
    listeners,
    make_tracing,
    read_tokens,
    tls_files,
)
from frame.cli.plans import PlannedModel, Planner, group_devices, with_entries
from frame.cli.registrar import Registrar
from frame.cli.settings import CommandSettings
from frame.cli.store_watch import Marks, StoreWatch, read_marks
from frame.config.settings import ServerConfig
from frame.errors import FrameError
from frame.http.connection_limits import connection_limits
from frame.http.dataplane import DataPlane
from frame.http.servers import AsgiApp, serve
from frame.http.settings import data_plane_settings
from frame.policy.wording import without_places
from frame.pool.budget import ByteBudget
from frame.pool.cgroups import usable_cores
from frame.pool.devices import visible_gpus
from frame.pool.folders import remove_left_behind
from frame.pool.manager import WorkloadManager
from frame.pool.memory import read_memory
from frame.pool.plan import ModelPlan
from frame.pool.unserved import UnservedModel
from frame.store.catalog import Catalog, build_catalog, model_reader, models_cache, warnings_of

_log = logging.getLogger("frame")
_FAILED_START = 1
_LEAST_DRAIN = 0.5
_SENDING = 2.0
"""Seconds that listeners get beyond `drain_timeout` to send the last answers."""
_GC_THRESHOLDS = (
    100_000,
    50,
    1000,
)  # Python's own (700, 10, 10) would look through a burst's jobs again and again


def serve_forever(settings: CommandSettings, *, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    logging.basicConfig(
        level=log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for plugin in settings.plugins.broken:
        _log.error(
            "plugin_broken name=%s distribution=%s reason=%s", plugin.name, plugin.distribution, plugin.reason
        )
    marks: Marks = {}
    if _polls(settings.server):
        try:
            marks = read_marks(settings.server, settings.models, settings.plugins.engines)
        except OSError as error:
            _log.warning("store_not_read reason=%s", error)
    catalog = build_catalog(
        settings.server,
        settings.models,
        settings.plugins.engines,
        settings.environ,
        lenient=settings.lenient,
        sources=settings.plugins.sources,
    )
    planned = planner_of(settings).plan(catalog)
    _report(settings.server, with_entries(catalog, planned))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Server(settings, planned, marks).run())


def _polls(server: ServerConfig) -> bool:
    return server.model_control_mode == "poll"


def planner_of(settings: CommandSettings) -> Planner:
    """Return what plans models on this machine."""
    engines = {spec.name: spec for spec in settings.plugins.engines}
    return Planner(engines, settings.environ, _cpu_threads(settings.server))


def _cpu_threads(server: ServerConfig) -> int:
    return server.cpu_threads or usable_cores()


def _report(server: ServerConfig, catalog: Catalog) -> None:
    """Say what is odd about the configuration, and what cannot be served."""
    for text in (*server.warnings, *catalog.warnings):
        _log.warning("%s", text)
    for text in catalog.problems:
        _log.error("model_refused %s", text)
    for entry in catalog.entries:
        for text in warnings_of(entry):
            _log.warning("model=%s %s", entry.name, text)
        for text in entry.problems:
            _log.error("model_refused model=%s %s", entry.name, text)


def _report_groups(plan: ModelPlan) -> None:
    """Say how many groups were chosen, where they fill the devices."""
    if plan.group.engine.fills_devices:
        devices = group_devices(plan)
        facts = (plan.name, len(devices), plan.group.ranks, ";".join(devices))
        _log.info("groups_planned model=%s groups=%d ranks=%d devices=%s", *facts)


class _Server:
    """One run of the server."""

    def __init__(self, settings: CommandSettings, planned: Sequence[PlannedModel], marks: Marks) -> None:
        self._settings = settings
        self._marks = marks
        self._config = settings.server
        self._planned = planned
        self._stop = asyncio.Event()
        self._stopped = 0.0
        self._exit_code = 0

    async def run(self) -> int:
        """Start everything, wait for the end, end everything in order."""
        loop = asyncio.get_running_loop()
        if removed := remove_left_behind():
            _log.info("folders_removed count=%d reason=their router was killed", removed)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_stop, number)
        manager = self._manager()
        registrar = self._registrar(manager)
        async with asyncio.TaskGroup() as tasks:
            pools = tasks.create_task(manager.run())
            try:
                await registrar.restore()
                if self._config.wait_model_loading:
                    await self._first(tasks, manager.settled())
                self._check_loaded(manager)
                if not self._stop.is_set():
                    await self._serve(tasks, manager, registrar)
            except FrameError as error:
                _log.error("server_failed %s", error)  # the message says it all
                self._exit_code = error.exit_code
            finally:
                registrar.close()
                await manager.close(self._time_left())
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

    async def _serve(self, tasks: asyncio.TaskGroup, manager: WorkloadManager, registrar: Registrar) -> None:
        """Serve every listener until told to stop; one that cannot listen ends the server."""
        protocols = self._settings.plugins.protocols
        data_plane = DataPlane(manager, adapters(protocols, self._config), data_plane_settings(self._config))
        tokens = read_tokens(self._config, self._settings.environ)
        tracing = make_tracing(self._config, self._settings.environ)
        make_app = app_maker(self._config, manager, data_plane, registrar, tracing)
        helpers = [tasks.create_task(data_plane.run()), tasks.create_task(self._close_when_stopped(manager))]
        if _polls(self._config):
            helpers.append(tasks.create_task(self._watch(manager, registrar).run()))
        try:
            async with asyncio.TaskGroup() as servers:
                for listening in listeners(self._config, protocols, tokens):
                    servers.create_task(self._listen(listening, make_app(listening)))
        except* FrameError as errors:
            raise errors.exceptions[0] from None
        finally:
            for helper in helpers:
                helper.cancel()
            if tracing is not None:
                await tracing.close()

    async def _close_when_stopped(self, manager: WorkloadManager) -> None:
        """End the workers while the listeners still send answers: what is cut gets a 503 and not a reset."""
        await self._stop.wait()
        await manager.close(self._config.drain_timeout)

    async def _listen(self, listening: Listening, app: AsgiApp) -> None:
        await serve(
            app,
            address=listening.address,
            server=self._config.http_server,
            tls=tls_files(self._config),
            stop=self._stop,
            ready=self._announce,
            graceful_timeout=self._config.drain_timeout + _SENDING,
            limits=connection_limits(self._config),
        )

    def _registrar(self, manager: WorkloadManager) -> Registrar:
        config, pattern = self._config, self._config.model_url_pattern
        return Registrar(
            reader=model_reader(
                config,
                self._settings.plugins.engines,
                self._settings.environ,
                lenient=self._settings.lenient,
                sources=self._settings.plugins.sources,
            ),
            planner=planner_of(self._settings),
            manager=manager,
            store=Path(config.model_store) if config.model_store else None,
            allowed=None if pattern is None else re.compile(pattern),
            drain_timeout=config.drain_timeout,
            announce=_report_groups,
            snapshot=None if config.model_snapshot is None else Path(config.model_snapshot),
            only_below=Path(config.multi_model_store) if config.multi_model else None,
        )

    def _watch(self, manager: WorkloadManager, registrar: Registrar) -> StoreWatch:
        return StoreWatch(
            marks=self._marks,
            look=partial(read_marks, self._config, self._settings.models, self._settings.plugins.engines),
            reader=registrar.reader,
            planner=registrar.planner,
            manager=manager,
            interval=self._config.model_poll_interval,
            drain_timeout=self._config.drain_timeout,
            announce=_report_groups,
        )

    def _time_left(self) -> float:
        """Seconds of `drain_timeout` that finishing HTTP requests has left for the workers.

        At least a little.
        """
        spent = time.monotonic() - self._stopped if self._stopped else 0.0
        return max(_LEAST_DRAIN, self._config.drain_timeout - spent)

    def _announce(self, urls: Sequence[str]) -> None:
        # What is loaded by now stays: the garbage collector need not look at it, nor so often at long queues.
        # In a burst of 10,000 requests it took a fifth of the time (benchmarks/burst.py, 2 cores).
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        for url in urls:
            _log.info("server_ready address=%s pid=%d", url, os.getpid())

    def _ask_stop(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.is_set():
            _log.warning("server_ends_now signal=%s", name)  # workers die with this process
            logging.shutdown()
            os._exit(128 + number)
        _log.info("server_stops signal=%s", name)
        self._stopped = time.monotonic()
        self._stop.set()

    def _manager(self) -> WorkloadManager:
        plans: list[ModelPlan] = []
        broken: list[UnservedModel] = []
        for model in self._planned:
            if model.workflow is not None:
                continue
            if model.plan is not None:
                _report_groups(model.plan)
                plans.append(model.plan)
                continue
            entry = model.entry
            # It goes to clients; `frame check` and the log have it whole.
            reason = without_places("; ".join(entry.problems))
            broken.append(UnservedModel(name=entry.name, version=entry.version, url=entry.url, reason=reason))
        cache = models_cache(self._config, self._settings.environ).parent
        manager = WorkloadManager(
            plans,
            broken,
            ByteBudget(self._config.max_queued_bytes),
            cache=Path(cache),
            cpu_threads=_cpu_threads(self._config),
            read=partial(read_memory, visible=visible_gpus(self._settings.environ)),
        )
        for model in self._planned:
            if model.workflow is not None:
                for plan in model.member_plans.values():
                    _report_groups(plan)
                manager.flows.add(model.workflow, model.member_plans)
        return manager

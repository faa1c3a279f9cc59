"""Find plugins by their entry points and collect what they yield.

A broken one is reported and stops nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

import pluggy

from frame import builtins, hookspecs
from frame.contract import API_VERSION
from frame.contract.engines import EngineSpec
from frame.contract.protocols import Protocol
from frame.contract.sources import ModelSource

_log = logging.getLogger(__name__)
GROUP = "frame.plugins"
CORE = "frame-core"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPlugin:
    """A plugin that was imported.

    Attributes:
        distribution, version: what `pip` calls it.
        import_seconds: how long its import took.
    """

    name: str
    distribution: str
    version: str
    import_seconds: float
    engines: tuple[EngineSpec, ...] = ()
    protocols: tuple[Protocol, ...] = ()
    sources: tuple[ModelSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPlugin:
    """A plugin that could not be used, and why."""

    name: str
    distribution: str
    version: str
    reason: str


@dataclass(slots=True)
class Plugins:
    """All that was found."""

    loaded: list[LoadedPlugin] = field(default_factory=list)
    broken: list[BrokenPlugin] = field(default_factory=list)

    @property
    def engines(self) -> list[EngineSpec]:
        """Every usable engine."""
        return [spec for plugin in self.loaded for spec in plugin.engines]

    @property
    def protocols(self) -> list[Protocol]:
        """Every protocol."""
        return [protocol for plugin in self.loaded for protocol in plugin.protocols]

    @property
    def sources(self) -> list[ModelSource]:
        """Every model source."""
        return [source for plugin in self.loaded for source in plugin.sources]


def load_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Import all plugins and call their hooks.

    Args:
        points: instead of the installed distributions' entry points of the group `frame.plugins`.
    """
    found = Plugins()
    found.loaded.append(_collect("core", CORE, builtins.VERSION, lambda: builtins))
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda item: item.name):
        distribution = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        try:
            plugin = _collect(point.name, distribution, version, point.load)
            _check_names(plugin, found.engines)
            _check_schemes(plugin, found.sources)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # fault line: around a plugin
            _log.debug("plugin_broken name=%s", point.name, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            found.broken.append(
                BrokenPlugin(name=point.name, distribution=distribution, version=version, reason=reason)
            )
        else:
            found.loaded.append(plugin)
    return found


def _collect(name: str, distribution: str, version: str, load: Callable[[], object]) -> LoadedPlugin:
    """Import one plugin and call its hooks, apart from all others."""
    started = time.perf_counter()
    module = load()
    seconds = time.perf_counter() - started
    manager = pluggy.PluginManager("frame")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    engines = tuple(spec for specs in manager.hook.frame_engines() for spec in specs)
    protocols = tuple(protocol for items in manager.hook.frame_protocols() for protocol in items)
    sources = tuple(source for items in manager.hook.frame_model_sources() for source in items)
    for spec in engines:
        _check_engine(spec)
    for source in sources:
        _check_source(source)
    for protocol in protocols:
        if not isinstance(protocol, Protocol):
            raise TypeError(f"frame_protocols yielded {type(protocol).__name__}, not Protocol")
    return LoadedPlugin(
        name=name,
        distribution=distribution,
        version=version,
        import_seconds=seconds,
        engines=engines,
        protocols=protocols,
        sources=sources,
    )


def _check_engine(spec: object) -> None:
    """Raise `TypeError` or `ValueError` when a plugin yields what is no usable engine."""
    if not isinstance(spec, EngineSpec):
        raise TypeError(f"frame_engines yielded {type(spec).__name__}, not EngineSpec")
    _check_target(f"engine {spec.name}", spec.api, spec.target)


def _check_source(source: object) -> None:
    """Raise `TypeError` or `ValueError` when a plugin yields what is no usable source."""
    if not isinstance(source, ModelSource):
        raise TypeError(f"frame_model_sources yielded {type(source).__name__}, not ModelSource")
    _check_target(f"source {source.name}", source.api, source.target)


def _check_target(what: str, api: tuple[int, int], target: str) -> None:
    low, high = api
    if not low <= API_VERSION <= high:
        versions = f"plugin API {low} to {high}; this server has {API_VERSION}"
        raise ValueError(f"{what} was written for {versions}")
    if ":" not in target:
        raise ValueError(f"{what}: target {target!r} is not of the form package.module:Class")


def _check_schemes(plugin: LoadedPlugin, others: Iterable[ModelSource]) -> None:
    """Raise `ValueError` when two sources share a scheme, or one takes that of this machine's files."""
    taken = {scheme: source.name for source in others for scheme in source.schemes} | {"file": "core"}
    for source in plugin.sources:
        for scheme in source.schemes:
            if scheme in taken:
                raise ValueError(f"source {source.name}: {scheme}: is taken by source {taken[scheme]}")


def _check_names(plugin: LoadedPlugin, others: Iterable[EngineSpec]) -> None:
    """Raise `ValueError` when two engines share a name or alias: which wins must not depend on the order."""
    taken = {name.lower(): spec.name for spec in others for name in (spec.name, *spec.aliases)}
    for spec in plugin.engines:
        for name in (spec.name, *spec.aliases):
            if name.lower() in taken:
                raise ValueError(
                    f"engine {spec.name}: the name {name} is taken by engine {taken[name.lower()]}"
                )

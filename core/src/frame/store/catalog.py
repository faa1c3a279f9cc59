"""Build the catalog: every model of the startup list, with its configuration or with what is wrong."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from frame.api import EngineSpec, FolderListing, ModelSource
from frame.config.files import read_properties
from frame.config.keys import MODEL_KEYS
from frame.config.layers import Setting, alias_names, environment_layer, file_layer, merge_layers
from frame.config.models import CheckedModel, ModelIdentity, build_model_config
from frame.config.settings import ModelConfig, ServerConfig, Source
from frame.config.workflows import WorkflowFile
from frame.contract.options import option_keys
from frame.errors import FrameError, StoreError
from frame.store.archives import extract_archive
from frame.store.detection import Detection, detect_engine, named_engine
from frame.store.fetching import Fetcher, Watch
from frame.store.folders import PROPERTIES_FILE, list_files, model_folder
from frame.store.secure import read_secure_mode
from frame.store.startup import StartupEntry, entry_of_variables, list_startup
from frame.store.urls import MODEL_ID, is_archive_name, local_path, model_name, path_stem, scheme_of
from frame.store.workflows import find_workflow_file, is_workflow_name, read_workflow

_PER_BYTE, _DEEP = 1.2, 16
"""Memory per byte of files, DJL Serving's; levels of folders that are looked at."""
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
"""How a repository of a hub is named: by its owner and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model of the catalog: served when it has a `config`, refused with its `problems` otherwise.

    Attributes:
        url: as it was given, or the path in the store.
        reason: why this engine: the claim's reason or where it was named; empty when none was found.
        workflow: what it is instead of a model; it has no `config` then.
        members: the models of a workflow, by the names that it gives them.
    """

    name: str
    version: str | None
    url: str
    config: ModelConfig | None
    problems: tuple[str, ...]
    reason: str = ""
    workflow: WorkflowFile | None = None
    members: Mapping[str, CatalogEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All models, in the order of the startup list; no two have the same name and version.

    Attributes:
        warnings: of the store and the list as a whole.
        problems: entries that name no model of their own: malformed ones, and second ones of the same name.
    """

    entries: tuple[CatalogEntry, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReader:
    """What reading a model's configuration rests on; reading is blocking I/O, and extracts archives.

    Attributes:
        cache: folder of extracted archives.
        fetcher: brings models of other machines here.
    """

    server: ServerConfig
    engines: tuple[EngineSpec, ...]
    environ: Mapping[str, str]
    cache: Path
    lenient: bool
    fetcher: Fetcher

    def read(
        self, entry: StartupEntry, watch: Watch | None = None, *, is_member: bool = False
    ) -> CatalogEntry:
        """Find a model's files, its engine and its settings; what is wrong becomes the entry's problems.

        A model that is elsewhere is downloaded first, which takes `model_download_timeout` at most.

        Args:
            is_member: it is a workflow's, and no workflow itself.
        """
        name = entry.url.name or model_name(entry.url.location)
        watch = watch or Watch()
        try:
            files = self._locate(entry, watch)
            if not is_member and (path := find_workflow_file(files.folder, files.only)) is not None:
                return self._read_workflow(entry, path, name, watch)
            layers = self._layers(entry, files)
            settings = merge_layers(layers, alias_names(MODEL_KEYS))
            if weights := self._weights(entry, files, settings, watch):
                layers.insert(0, weights)
                settings = merge_layers(layers, alias_names(MODEL_KEYS))
            listing = _listing(files, settings)
            found = detect_engine(listing, self.engines, named_engine(settings))
            checked = self._check(entry, name, files, found, layers)
        except FrameError as error:
            return _refused(entry, name, (str(error),))
        reason = found.claim.reason if found.claim else f"engine= at {found.source}"
        if checked.config is None:
            return _refused(entry, name, checked.problems, reason)
        return CatalogEntry(
            name=name,
            version=entry.url.version,
            url=entry.url.text,
            config=checked.config,
            problems=(),
            reason=reason,
        )

    def _read_workflow(self, entry: StartupEntry, path: Path, inferred: str, watch: Watch) -> CatalogEntry:
        is_asked = entry.source.kind == "rest"
        if is_asked and self.server.multi_model:  # it could name models anywhere
            raise StoreError(f"{path.name}: with multi_model no workflows are registered")
        pattern = self.server.model_url_pattern if is_asked else None
        found = read_workflow(entry, path, inferred, None if pattern is None else re.compile(pattern))
        members = {name: self.read(member, watch, is_member=True) for name, member in found.members.items()}
        problems = [f"{item.name}: {text}" for item in members.values() for text in item.problems]
        return CatalogEntry(
            name=found.name,
            version=found.version,
            url=entry.url.text,
            config=None,
            problems=tuple(problems),
            workflow=found.file,
            members=members,
        )

    def _fetch(self, entry: StartupEntry, watch: Watch) -> _ModelFiles:
        location = entry.url.location
        folder = self.fetcher.fetch(location, watch, is_trusted=entry.source.kind != "rest")
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(files) == 1 and is_archive_name(files[0].name):
            folder = extract_archive(files[0], self.cache)
        only = files[0].name if len(files) == 1 and is_workflow_name(files[0].name) else None
        return _ModelFiles(model_folder(folder), path_stem(location), only)

    def _weights(
        self, entry: StartupEntry, files: _ModelFiles, settings: Mapping[str, Setting], watch: Watch
    ) -> dict[str, Setting]:
        """Return `option.model_id` as a folder of this machine, when it names a url or a hub's repository."""
        setting = settings.get(MODEL_ID)
        if setting is None:
            return {}
        location = setting.value
        if _REPOSITORY.fullmatch(location) and not Path(files.folder, location).exists():
            revision = settings.get("option.revision")
            location = f"hf://{location}@{revision.value}" if revision else f"hf://{location}"
        if not scheme_of(location):
            return {}
        folder = self.fetcher.fetch(location, watch, is_trusted=entry.source.kind != "rest")
        source = Source(setting.source.kind, f"{setting.source.where} ({setting.value}, downloaded)")
        return {MODEL_ID: Setting(key=MODEL_ID, value=str(folder), source=source)}

    def _locate(self, entry: StartupEntry, watch: Watch) -> _ModelFiles:
        if scheme_of(entry.url.location):
            return self._fetch(entry, watch)
        path = Path(os.path.abspath(local_path(entry.url.location)))  # noqa: PTH100  # resolve() follows links
        stem = path_stem(str(path))
        if not os.path.exists(path):  # noqa: PTH110  # Path.exists() raises when a name is too long
            message = f"{path}: there is no such file or folder"
            raise StoreError(message)
        if path.is_dir():
            return _ModelFiles(model_folder(path), stem, None)
        if is_archive_name(path.name):
            return _ModelFiles(model_folder(extract_archive(path, self.cache)), stem, None)
        return _ModelFiles(path.parent, path.stem, path.name)

    def _layers(self, entry: StartupEntry, files: _ModelFiles) -> list[dict[str, Setting]]:
        """Return the settings that were given, the strongest first."""
        properties = files.folder / PROPERTIES_FILE
        from_file = (
            file_layer(read_properties(properties, PROPERTIES_FILE), PROPERTIES_FILE)
            if files.only is None and properties.is_file()
            else {}
        )
        spellings = [f"option.{key}" for spec in self.engines for key in option_keys(spec.options)]
        return [_url_layer(entry), from_file, environment_layer(self.environ, spellings)]

    def _check(
        self,
        entry: StartupEntry,
        name: str,
        files: _ModelFiles,
        found: Detection,
        layers: Sequence[Mapping[str, Setting]],
    ) -> CheckedModel:
        identity = ModelIdentity(
            name=name,
            version=entry.url.version,
            path=str(files.folder),
            model_file=found.claim.model_file if found.claim else files.only,
            spec=found.spec,
            engine_source=found.source,
        )
        checked = build_model_config(identity, layers, self.server, lenient=self.lenient)
        if checked.config is None:
            return checked
        config = _with_estimate(checked.config, files) if self.server.multi_model else checked.config
        secure = read_secure_mode(self.environ)
        caches = (self.cache.parent, self.fetcher.cache)
        if secure is not None and (refused := secure.find(config, found.spec, caches)):
            return CheckedModel(None, refused)
        missing = _missing_modules(found.spec, config)
        return CheckedModel(None, missing) if missing else CheckedModel(config, ())


@dataclass(frozen=True, slots=True)
class _ModelFiles:
    """A model's folder, the stem of its files' names, and its file when the URL names one alone."""

    folder: Path
    stem: str
    only: str | None


def build_catalog(
    config: ServerConfig,
    models: Sequence[str],
    engines: Sequence[EngineSpec],
    environ: Mapping[str, str],
    *,
    lenient: bool,
    sources: Sequence[ModelSource] = (),
) -> Catalog:
    """Read every model of the startup list; a wrong one is refused, and the others are served.

    Blocks on the disk, and extracts archives that are not in the cache yet.

    Args:
        models: entries of `-m`; see `list_startup` for how they and the store go together.
        lenient: unknown keys are warnings.
        sources: where models may come from, beside this machine's files.
    """
    reader = model_reader(config, engines, environ, lenient=lenient, sources=sources)
    startup = list_startup(config, models, engines)
    problems = list(startup.problems)
    try:
        if (named := entry_of_variables(environ, reader.cache.with_name("named"))) is not None:
            startup.entries.append(named)
    except (StoreError, OSError) as error:
        problems.append(f"HFMODEL_ID: {error}")
    found: dict[tuple[str, str | None], CatalogEntry] = {}
    for entry in startup.entries:
        read = reader.read(entry)
        first = found.setdefault((read.name, read.version), read)
        if first is not read:
            problems.append(
                f"{read.url}: there is a model {_label(read)} already, from {first.url}; "
                "give one of them another name or version: NAME:VERSION=PATH"
            )
    return Catalog(entries=tuple(found.values()), warnings=tuple(startup.warnings), problems=tuple(problems))


def model_reader(
    config: ServerConfig,
    engines: Sequence[EngineSpec],
    environ: Mapping[str, str],
    *,
    lenient: bool,
    sources: Sequence[ModelSource] = (),
) -> ModelReader:
    """Return what reads models for a server; `lenient` and `sources` as in `build_catalog`."""
    cache = models_cache(config, environ)
    downloads = environ.get("SERVING_DOWNLOAD_DIR")
    return ModelReader(
        server=config,
        engines=tuple(engines),
        environ=environ,
        cache=cache,
        lenient=lenient,
        fetcher=Fetcher(
            sources=tuple(sources),
            cache=Path(downloads).absolute() if downloads else cache.with_name("downloads"),
            timeout=config.model_download_timeout,
            environ=environ,
            allows_private=config.allow_private_sources,
        ),
    )


def models_cache(config: ServerConfig, environ: Mapping[str, str]) -> Path:
    """Return the folder of extracted archives, below `cache_dir` or the user's cache folder."""
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "/tmp", ".cache"))  # noqa: S108
    root = Path(config.cache_dir) if config.cache_dir else Path(home, "frame")
    return root.absolute() / "models"


def all_entries(catalog: Catalog) -> tuple[CatalogEntry, ...]:
    """Return every entry, the models of a workflow after it."""
    return tuple(found for entry in catalog.entries for found in (entry, *entry.members.values()))


def warnings_of(entry: CatalogEntry) -> tuple[str, ...]:
    """Return what is odd about a model, or about a workflow and its models."""
    if entry.workflow is None:
        return entry.config.warnings if entry.config else ()
    members = (f"{item.name}: {text}" for item in entry.members.values() for text in warnings_of(item))
    return (*entry.workflow.warnings, *members)


def _label(entry: CatalogEntry) -> str:
    return f"{entry.name}:{entry.version}" if entry.version else entry.name


def _refused(entry: StartupEntry, name: str, problems: tuple[str, ...], reason: str = "") -> CatalogEntry:
    return CatalogEntry(
        name=name,
        version=entry.url.version,
        url=entry.url.text,
        config=None,
        problems=problems,
        reason=reason,
    )


def _url_layer(entry: StartupEntry) -> dict[str, Setting]:
    """Return what the startup list itself says of a model: endpoint fields and the URL's query."""
    given = {"engine": entry.url.engine, "load_on_devices": entry.url.devices, **entry.url.arguments}
    source = Source(entry.source.kind, f"{entry.source.where} {entry.url.text}".strip())
    return {
        key: Setting(key=key, value=value, source=source) for key, value in given.items() if value is not None
    }


def _with_estimate(config: ModelConfig, files: _ModelFiles) -> ModelConfig:
    """Return the configuration with the memory that a model of these files takes, unless it says it."""
    if config.required_memory_mb or config.per_device:
        return config
    size = sum(entry.size_bytes for entry in list_files(files.folder, levels=_DEEP))
    source = Source("default", "1.2 times the size of its files (multi_model)")
    return replace(
        config,
        required_memory_mb=math.ceil(size * _PER_BYTE / (1 << 20)),
        sources=MappingProxyType({**config.sources, "required_memory_mb": source}),
    )


def _listing(files: _ModelFiles, settings: Mapping[str, Setting]) -> FolderListing:
    entries = tuple(
        entry for entry in list_files(files.folder) if files.only is None or entry.path == files.only
    )
    named = settings.get("option.modelName")
    return FolderListing(
        name=named.value if named else files.stem,
        files=entries,
        properties={setting.key: setting.value for setting in settings.values()},
    )


def _missing_modules(spec: EngineSpec, config: ModelConfig) -> tuple[str, ...]:
    """Return what to install when the engine's framework is absent and the model does not bring its own."""
    brings_own = (
        config.pythonExecutable or config.enable_venv or Path(config.path, "requirements.txt").exists()
    )
    if brings_own:
        return ()
    return tuple(
        f"the engine {spec.name} needs {module}: {remedy}"
        for module, remedy in spec.requires.items()
        if importlib.util.find_spec(module.partition(".")[0]) is None
    )

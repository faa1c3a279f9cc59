"""Turn `load_models`, `-m` and the store into the list of models to read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from frame.api import EngineSpec, FolderListing
from frame.config.settings import ServerConfig, Source
from frame.errors import StoreError
from frame.store.detection import claim_of
from frame.store.folders import PROPERTIES_FILE, WORKFLOW_FILES, list_files, list_store
from frame.store.urls import ModelUrl, model_name, parse_model_url, scheme_of, split_model_list

_ALL = "ALL"
_NONE = "NONE"


@dataclass(frozen=True, slots=True)
class StartupEntry:
    """One model to read; `source` says which setting or flag named it."""

    url: ModelUrl
    source: Source


@dataclass(slots=True)
class StartupList:
    """Models to read, in order, each once; and what is wrong with the list itself."""

    entries: list[StartupEntry] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def list_startup(config: ServerConfig, models: Sequence[str], engines: Sequence[EngineSpec]) -> StartupList:
    """List the models to read.

    `ALL` is every model of the store, or the store itself when it is one model; `NONE` is none.
    Entries of `-m` replace `load_models`, as in DJL Serving; a store that was named on the command
    line is then served as well, which DJL Serving does not do.
    """
    result = StartupList()
    store = Path(config.model_store) if config.model_store else None
    listed = split_model_list(config.load_models)
    takes_all = [entry.upper() for entry in listed] in ([], [_ALL])
    if models:
        store_was_typed = store is not None and config.sources["model_store"].kind == "flag"
        if store_was_typed:
            _add_store(result, store, config.sources["model_store"], engines)
        _add_listed(result, models, Source("flag", "-m"), store)
    elif takes_all:
        _add_store(result, store, config.sources["model_store"], engines)
    elif [entry.upper() for entry in listed] != [_NONE]:
        _add_listed(result, listed, config.sources["load_models"], store)
    result.entries = list({entry.url.text: entry for entry in result.entries}.values())
    return result


def _add_store(
    result: StartupList, store: Path | None, source: Source, engines: Sequence[EngineSpec]
) -> None:
    if store is None:
        result.warnings.append("no models: name a store or give -m NAME=PATH")
        return
    if not store.is_dir():
        result.warnings.append(f"model_store ({source}): {store} is no folder; no models are served from it")
        return
    try:
        listing = list_store(store)
        bare = bool(listing.stray) and (not listing.models or _is_model(store, engines))
    except StoreError as error:
        result.problems.append(f"model_store ({source}): {error}")
        return
    if bare:
        result.entries.append(StartupEntry(_url_of(store), source))
        return
    if listing.stray:
        names = ", ".join(path.name for path in listing.stray)
        result.warnings.append(f"model_store ({source}): files beside the models are not served: {names}")
    if not listing.models:
        result.warnings.append(f"model_store ({source}): {store} has no models in it")
    result.entries += [StartupEntry(_url_of(path), source) for path in listing.models]


def _is_model(folder: Path, engines: Sequence[EngineSpec]) -> bool:
    """Tell whether a folder is itself a model: it has settings, or an engine recognises its files.

    DJL Serving takes every store with a stray file for one model; a README beside models is no reason to.
    """
    top = list_files(folder, levels=1)
    listing = FolderListing(name=folder.absolute().name, files=top, properties={})
    return any(entry.path in {PROPERTIES_FILE, *WORKFLOW_FILES} for entry in top) or any(
        claim_of(spec, listing) is not None for spec in engines
    )


def _url_of(path: Path) -> ModelUrl:
    return ModelUrl(
        text=str(path), name=None, version=None, engine=None, devices=None, location=str(path), arguments={}
    )


def _add_listed(result: StartupList, texts: Sequence[str], source: Source, store: Path | None) -> None:
    for text in texts:
        try:
            url = parse_model_url(text)
        except StoreError as error:
            result.problems.append(f"{source}: {error}")
            continue
        result.entries.append(StartupEntry(replace(url, location=in_store(url.location, store)), source))


def entry_of_variables(environ: Mapping[str, str], folder: Path) -> StartupEntry | None:
    """Return the model that `HF_MODEL_ID` names: a path, a url, or a repository of a hub without a folder.

    Args:
        folder: made, and left empty, to be the model's when it has none of its own.
    """
    named = environ.get("HF_MODEL_ID", "").strip()
    if not named:
        return None
    source = Source("env", "HF_MODEL_ID")
    if scheme_of(named) or Path(named).exists():
        return StartupEntry(parse_model_url(named), source)
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "option.model_id": named,
        "option.revision": environ.get("HF_REVISION", ""),
        "option.task": environ.get("HF_TASK", ""),
    }
    arguments = MappingProxyType({key: value for key, value in given.items() if value})
    url = replace(_url_of(folder), text=f"HF_MODEL_ID={named}", name=model_name(named), arguments=arguments)
    return StartupEntry(url, source)


def in_store(location: str, store: Path | None) -> str:
    """Look a relative location up: a bare name in the store first, a path in the current folder first."""
    if store is None or Path(location).is_absolute() or ":" in location:
        return location
    candidates = [Path(location), store / location]
    if "/" not in location:
        candidates.reverse()
    # Not Path.exists(), which raises when a name is longer than a file's may be.
    found = next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110
    return str(found) if found else location

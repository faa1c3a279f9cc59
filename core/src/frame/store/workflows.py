"""Find a workflow's file and read it: the workflow, and its models as entries of the catalog."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from frame.config.files import read_text
from frame.config.settings import Source
from frame.config.workflows import FUNCTIONS, WorkflowFile, is_workflow_text, parse_workflow
from frame.errors import ConfigError, StoreError
from frame.store.folders import WORKFLOW_FILES
from frame.store.startup import StartupEntry
from frame.store.urls import MODEL_ID, ModelUrl, is_allowed, model_name, parse_model_url, scheme_of

_YAML = (".yml", ".yaml")
_MOST_BYTES = 1 << 20
MEMBER = "{workflow}:{model}"
"""What a workflow's model is called: no other model's name has a colon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWorkflow:
    """A workflow's file as it was read, and what it is called.

    Attributes:
        members: what is to be read of each of its models, by the names that it gives them.
    """

    name: str
    version: str | None
    file: WorkflowFile
    members: dict[str, StartupEntry]


def is_workflow_name(name: str) -> bool:
    """Tell whether a single file that was downloaded may be a workflow's."""
    return name.lower().endswith((".json", *_YAML))


def find_workflow_file(folder: Path, only: str | None) -> Path | None:
    """Return the file of a workflow; None when a folder, or the `only` file of it that is meant, is none."""
    if only is None:
        return next((path for name in WORKFLOW_FILES if (path := folder / name).is_file()), None)
    path = folder / only
    lowered = only.lower()
    if lowered.endswith(_YAML):
        return path
    if not lowered.endswith(".json") or path.stat().st_size > _MOST_BYTES:
        return None
    is_named = "workflow" in lowered
    return path if is_named or is_workflow_text(path.read_text("utf-8", "replace")) else None


def read_workflow(
    entry: StartupEntry, path: Path, inferred: str, allowed: re.Pattern[str] | None
) -> FoundWorkflow:
    """Read a workflow's file.

    Args:
        inferred: its name, where neither the entry nor the file gives one.
        allowed: what urls of models outside its folder must match; None: anything.

    Raises:
        ConfigError, StoreError: it is malformed, or a url is.
    """
    file = parse_workflow(read_text(path, path.name), path.name, str(path.parent))
    is_remote = bool(scheme_of(entry.url.location))
    own_name = None if is_remote else file.name or _file_name(entry, path)  # on its way it has its url's
    name = entry.url.name or own_name or inferred
    version = entry.url.version or (None if is_remote else file.version)
    members: dict[str, StartupEntry] = {}
    for model, written in file.models.items():
        url = _url(written.url, path, f"models.{model}", allowed)
        url = replace(
            url,
            name=MEMBER.format(workflow=name, model=model),
            version=version,
            arguments=MappingProxyType({**url.arguments, **written.settings}),
        )
        weights = url.arguments.get(MODEL_ID)
        if weights and allowed is not None and not is_allowed(weights, allowed):
            raise ConfigError(f"{path.name}: models.{model}.{MODEL_ID}: it does not match model_url_pattern")
        members[model] = StartupEntry(url, Source(entry.source.kind, f"{path.name} models.{model}"))
    if file.needs_functions:
        members[FUNCTIONS] = _functions(entry, path, file, name, version)
    return FoundWorkflow(name=name, version=version, file=file, members=members)


def _file_name(entry: StartupEntry, path: Path) -> str | None:
    """Return the name that a file of its own gives: `flow` of `flow/workflow.json` and of `flow.yml`."""
    if not is_workflow_name(entry.url.location):
        return None
    return model_name(path.resolve().parent.name if path.name in WORKFLOW_FILES else path.stem)


def _functions(
    entry: StartupEntry, path: Path, file: WorkflowFile, name: str, version: str | None
) -> StartupEntry:
    url = ModelUrl(
        text=str(path.parent),
        name=MEMBER.format(workflow=name, model=FUNCTIONS),
        version=version,
        engine="functions",
        devices=None,
        location=str(path.parent),
        arguments=MappingProxyType({"option.functions": json.dumps(dict(file.functions))}),
    )
    return StartupEntry(url, Source(entry.source.kind, f"{path.name} functions"))


def _url(text: str, path: Path, where: str, allowed: re.Pattern[str] | None) -> ModelUrl:
    """Read a model's url; a relative one starts at the workflow's file."""
    try:
        url = parse_model_url(text)
    except StoreError as error:
        raise ConfigError(f"{path.name}: {where}: {error}") from error
    if url.name or url.version:
        raise ConfigError(
            f"{path.name}: {where}: the workflow names its models; leave out what is before the ="
        )
    folder = path.parent.resolve()
    if not scheme_of(url.location) and not url.location.startswith("file:"):
        url = replace(url, location=str(Path(path.parent, url.location)))
        if Path(url.location).resolve().is_relative_to(folder):
            return url
    if allowed is not None and not is_allowed(text, allowed):
        raise ConfigError(f"{path.name}: {where}: it does not match model_url_pattern")
    return url

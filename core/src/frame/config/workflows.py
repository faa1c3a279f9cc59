"""Read `workflow.json` or `.yml`: the models of a workflow, its functions and what is computed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from frame.config.nearest import suggest_key
from frame.errors import ConfigError
from frame.policy.workflow import BUILT_IN, Graph, WorkflowError, read_graph

FUNCTIONS = "functions"
"""What the worker of the Python functions is called beside the models: no model can have that name."""
MODEL_DIR = "{model_dir}"
"""Stands for the folder of the workflow's file."""
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_FUNCTION = re.compile(r"[\w./-]+\.py:[A-Za-z_]\w*|[A-Za-z_]\w*(?:\.\w+)*[.:][A-Za-z_]\w*", re.ASCII)
_KEYS = frozenset({"name", "version", "models", "functions", "workflow", "configs"})
_MODEL_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "engineName": "engine",
        "loadOnDevices": "load_on_devices",
        "queueSize": "job_queue_size",
        "batchSize": "batch_size",
        "maxBatchDelayMillis": "max_batch_delay",
        "maxIdleSeconds": "max_idle_time",
        "modelName": "option.modelName",
    }
)
"""DJL Serving's names of a workflow's file, and those of serving.properties."""
_WITHOUT_MEANING = frozenset({"version", "filters", "dynamicAdapters"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowModel:
    """One model of a workflow: where it is, and settings by key of serving.properties."""

    url: str
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFile:
    """A workflow as it was written, checked as far as its file goes.

    Attributes:
        name, version: None where the file has none.
        functions: `file.py:function` or `module.function` by name.
        needs_functions: some step is a function, or the built-in one that computes.
    """

    name: str | None
    version: str | None
    models: Mapping[str, WorkflowModel]
    functions: Mapping[str, str]
    graph: Graph
    warnings: tuple[str, ...] = ()

    @property
    def needs_functions(self) -> bool:
        """Whether a worker for functions is needed."""
        return any(call.kind == "function" for call in self.graph.calls())


def is_workflow_text(text: str) -> bool:
    """Tell whether the JSON of a file is a workflow's, and not a model's."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "workflow" in content


def parse_workflow(text: str, file: str, folder: str) -> WorkflowFile:
    """Read the text of a workflow's file.

    Args:
        file: its name, for errors; `.json` is read as JSON, all else as YAML.
        folder: what `{model_dir}` stands for.

    Raises:
        ConfigError: it is malformed; names the place and what was expected.
    """
    content = _load(text, file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected an object with models and a workflow")
    for key in content:
        if key not in _KEYS:
            near = suggest_key(str(key), _KEYS)
            raise ConfigError(f"{file}: {key}: unknown{f', did you mean {near}?' if near else ''}")
    if content.get("configs"):
        raise ConfigError(f"{file}: configs: adapters are not supported; use models that have them merged")
    warnings: list[str] = []
    models = _models(content.get("models") or {}, file, folder, warnings)
    functions = _functions(content.get("functions") or {}, file)
    if clash := sorted(functions.keys() & models.keys()):
        raise ConfigError(f"{file}: {clash[0]}: the name of a model and of a function")
    try:
        graph = read_graph(content.get("workflow"), frozenset(models), frozenset(functions))
    except WorkflowError as error:
        raise ConfigError(f"{file}: {error}") from error
    warnings += [
        f"{file}: workflow.{name}: it is not computed, since out does not need it" for name in graph.unused
    ]
    used = {call.target for call in graph.calls()}
    idle = [name for name in models if name not in used]
    warnings += [f"{file}: models.{name}: it is loaded, but no step that out needs runs it" for name in idle]
    return WorkflowFile(
        name=_label(content, "name", file),
        version=_label(content, "version", file),
        models=models,
        functions=functions,
        graph=graph,
        warnings=tuple(warnings),
    )


def _load(text: str, file: str) -> object:
    try:
        if file.lower().endswith(".json"):
            return json.loads(text)
        import yaml  # noqa: PLC0415  # only where there is such a file

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: no JSON: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: nested too deep") from error


def _label(content: Mapping[str, object], key: str, file: str) -> str | None:
    value = content.get(key)
    if value is None or value == "":
        return None
    text = _text(value, f"{file}: {key}")
    if _NAME.fullmatch(text) is None or (key == "version" and text == "default"):
        raise ConfigError(f"{file}: {key}: {text!r}: letters, digits, _, . and - are allowed")
    return text


def _models(section: object, file: str, folder: str, warnings: list[str]) -> dict[str, WorkflowModel]:
    models: dict[str, WorkflowModel] = {}
    for name, written in _entries(section, f"{file}: models", "an object of names and urls"):
        where = f"{file}: models.{name}"
        if name == FUNCTIONS or name in BUILT_IN or _NAME.fullmatch(name) is None:
            raise ConfigError(f"{where}: no name for a model; letters, digits, _, . and - are allowed")
        fields = {"modelUrl": written} if isinstance(written, str) else written
        if not isinstance(fields, Mapping) or not isinstance(fields.get("modelUrl"), str):
            raise ConfigError(f"{where}: expected a url, or an object with a modelUrl")
        settings: dict[str, str] = {}
        for key, value in fields.items():
            if key in _WITHOUT_MEANING:
                warnings.append(f"{where}.{key}: it has no meaning here")
            elif key in {"options", "arguments"}:
                prefix = "option." if key == "options" else ""
                for inner, given in _entries(value, f"{where}.{key}", "an object"):
                    settings[prefix + inner] = _text(given, f"{where}.{key}.{inner}")
            elif key != "modelUrl":
                settings[_MODEL_KEYS.get(str(key), str(key))] = _text(value, f"{where}.{key}")
        models[name] = WorkflowModel(
            url=str(fields["modelUrl"]).replace(MODEL_DIR, folder),
            settings={key: value.replace(MODEL_DIR, folder) for key, value in settings.items()},
        )
    return models


def _functions(section: object, file: str) -> dict[str, str]:
    functions: dict[str, str] = {}
    for name, target in _entries(section, f"{file}: functions", "an object of names and Python functions"):
        where = f"{file}: functions.{name}"
        if name in BUILT_IN:
            raise ConfigError(f"{where}: there is a built-in function of that name")
        if not isinstance(target, str) or _FUNCTION.fullmatch(target) is None or ".." in target:
            raise ConfigError(f"{where}: expected file.py:function or module.function, in Python")
        functions[name] = target
    return functions


def _entries(section: object, where: str, expected: str) -> list[tuple[str, object]]:
    if not isinstance(section, Mapping) or not all(isinstance(key, str) for key in section):
        raise ConfigError(f"{where}: expected {expected}")
    return list(section.items())


def _text(value: object, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where}: expected text, a number, true or false")

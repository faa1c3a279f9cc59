"""Build a model's configuration from its layers of settings: type, refuse, pass on, warn. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from frame.api import EngineSpec
from frame.config.keys import ARGUMENTS, DEVICE_TYPES, MODEL_KEYS, UNUSED_MODEL_KEYS, Key
from frame.config.layers import Findings, Setting, alias_names, merge_layers, typed_value
from frame.config.nearest import near_key, suggest_key
from frame.config.settings import ModelConfig, ServerConfig, Source
from frame.contract.options import check_options, option_keys

_KEYS = {key.name: key for key in MODEL_KEYS}
_UNUSED = {key.name: key for key in UNUSED_MODEL_KEYS}
_DEVICE_KEYS = {f"{kind}.{key.name}": key for kind in DEVICE_TYPES for key in MODEL_KEYS if key.per_device}
_NEURON = "nc."
_NOT_FORWARDED = "option.env"
UNCOUNTED = 1024
"""Requests in a batch that is limited by its elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What is known of a model before its settings are read: what it is called, where it is, who runs it."""

    name: str
    version: str | None
    path: str
    model_file: str | None
    spec: EngineSpec
    engine_source: Source


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model's configuration, or every reason why there is none."""

    config: ModelConfig | None
    problems: tuple[str, ...]


def build_model_config(
    identity: ModelIdentity,
    layers: Sequence[Mapping[str, Setting]],
    server: ServerConfig,
    *,
    lenient: bool,
) -> CheckedModel:
    """Check all settings of a model and report all problems together.

    Args:
        layers: settings by the key as it was spelled, the strongest source first. Below them come
            the server's defaults for models, then those of `MODEL_KEYS`.
        lenient: unknown keys are warnings.
    """
    builder = _Builder(identity.spec, lenient=lenient)
    for name, setting in merge_layers(layers, builder.names).items():
        builder.take(name, setting)
    builder.check_engine_options()
    builder.add_defaults(server)
    builder.check_worker_numbers()
    builder.check_batching()
    if builder.findings.problems:
        return CheckedModel(None, tuple(builder.findings.problems))
    config = ModelConfig(
        name=identity.name,
        version=identity.version,
        path=identity.path,
        model_file=identity.model_file,
        engine=identity.spec.name,
        per_device=MappingProxyType(builder.per_device),
        options=identity.spec.options(**builder.options),
        option_strings=MappingProxyType(builder.option_strings),
        properties=MappingProxyType(builder.properties),
        sources=MappingProxyType({"engine": identity.engine_source, **builder.sources}),
        warnings=tuple(builder.findings.warnings),
        **builder.values,
    )
    return CheckedModel(config, ())


class _Builder:
    """Takes one setting after the other and sorts it by the kind of its key."""

    def __init__(self, spec: EngineSpec, *, lenient: bool) -> None:
        self._spec = spec
        self._lenient = lenient
        self._engine_keys = {f"option.{key}": item.name for key, item in option_keys(spec.options).items()}
        self._engine_settings: dict[str, Setting] = {}
        self.names = alias_names(MODEL_KEYS) | {
            spelling: f"option.{name}"
            for spelling, name in self._engine_keys.items()
            if spelling != f"option.{name}"
        }
        self.findings = Findings()
        self.values: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.option_strings: dict[str, str] = {}
        self.per_device: dict[str, int] = {}
        self.properties: dict[str, str] = {}
        self.sources: dict[str, Source] = {}

    def take(self, name: str, setting: Setting) -> None:
        """Sort one setting: known, the engine's, unused, an argument, the handler's or unknown."""
        if name == "engine":
            return
        self.sources[name] = setting.source
        if name in _KEYS or name in _DEVICE_KEYS:
            self._take_known(name, setting)
        elif name in self._engine_keys:
            self._engine_settings[name] = setting
        elif name in _UNUSED:
            self._take_unused(name, setting)
        elif name.startswith(_NEURON):
            self._warn(setting, "there are no Neuron devices here; use cpu. or gpu.")
        elif name not in ARGUMENTS and not name.startswith("synset"):
            self._take_unknown(name, setting)
        if name != _NOT_FORWARDED and (name.startswith("option.") or name not in {*_KEYS, *_DEVICE_KEYS}):
            self.properties[setting.key.removeprefix("option.")] = setting.value

    def _take_known(self, name: str, setting: Setting) -> None:
        key = _KEYS.get(name) or _DEVICE_KEYS[name]
        value = typed_value(key, setting, self.findings)
        if name in _KEYS:
            self.values[key.field] = value
        elif isinstance(value, int):
            self.per_device[name] = value

    def _take_unused(self, name: str, setting: Setting) -> None:
        unused = _UNUSED[name]
        if not (unused.for_handlers and self._spec.open_options):
            self._warn(setting, f"has no meaning for the engine {self._spec.name}; {unused.instead}")

    def _take_unknown(self, name: str, setting: Setting) -> None:
        known = {*_KEYS, *self._engine_keys, "engine", *_DEVICE_KEYS, *ARGUMENTS, *_UNUSED}
        if self._spec.open_options and name.startswith("option."):
            near = near_key(name, known)
            if near is not None:
                self._warn(setting, f"unknown, passed to the handler as it is; did you mean {near}?")
            return
        meant = suggest_key(name, known)
        hint = f"did you mean {meant}?" if meant else "no key is like it; docs/configuration.md lists them"
        # A variable speaks to every model of the store: one meant for another engine must not keep
        # this model from being served.
        if self._lenient or setting.source.kind == "env":
            self._warn(setting, f"unknown, ignored; {hint}")
        else:
            self.findings.problems.append(f"{setting.key} ({setting.source}): unknown; {hint}")

    def _warn(self, setting: Setting, message: str) -> None:
        self.findings.warnings.append(f"{setting.key} ({setting.source}): {message}")

    def check_engine_options(self) -> None:
        """Type the settings that the engine declares."""
        given = {setting.key.removeprefix("option."): setting for setting in self._engine_settings.values()}
        texts = {key: setting.value for key, setting in given.items()}
        self.options, errors = check_options(self._spec.options, texts)
        self.findings.problems += [
            f"option.{error.key} ({given[error.key].source}): {error.message}" for error in errors
        ]
        self.option_strings = {self._engine_keys[f"option.{key}"]: text for key, text in texts.items()}
        for name in self._engine_keys.values():
            self.sources.setdefault(f"option.{name}", Source("default", ""))

    def add_defaults(self, server: ServerConfig) -> None:
        """Fill what was not given from the server's defaults for models, then from the table."""
        for key in MODEL_KEYS:
            if key.field in self.values:
                continue
            self.values[key.field] = _default_value(key, server)
            self.sources[key.name] = server.sources.get(key.field, Source("default", ""))

    def check_worker_numbers(self) -> None:
        """Warn when a minimum is above its maximum; `worker_limits` cuts it."""
        for prefix in ("", *(f"{kind}." for kind in DEVICE_TYPES)):
            low = self.per_device.get(f"{prefix}minWorkers", self.values["minWorkers"])
            high = self.per_device.get(f"{prefix}maxWorkers", self.values["maxWorkers"])
            given = not prefix or {f"{prefix}minWorkers", f"{prefix}maxWorkers"} & self.per_device.keys()
            if given and high is not None and low > high:
                where = self.sources.get(f"{prefix}minWorkers", self.sources["minWorkers"])
                self.findings.warnings.append(
                    f"{prefix}minWorkers ({where}): {low} is more than {prefix}maxWorkers; {high} are used"
                )

    def check_batching(self) -> None:
        """Refuse settings of batches that need another one; a budget alone lifts the default count."""
        if self.values["batching"] == "adaptive" and self.values["latency_target_ms"] is None:
            where = self.sources["batching"]
            self.findings.problems.append(f"batching ({where}): adaptive needs latency_target_ms")
        for name in ("pad_values", "pad_mask"):
            if self.values[name] and self.values["pad_to"] is None:
                self.findings.problems.append(f"{name} ({self.sources[name]}): needs pad_to")
        is_counted = self.sources["batch_size"].kind != "default"
        if self.values["max_batch_elements"] is not None and not is_counted:
            self.values["batch_size"] = UNCOUNTED
            self.sources["batch_size"] = Source("default", "default with max_batch_elements")


def _default_value(key: Key, server: ServerConfig) -> object:
    return getattr(server, key.field) if key.field in server.sources else key.default

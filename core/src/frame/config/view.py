"""Settings as people are shown them: every value as text with its source, secrets masked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from frame.config.keys import MODEL_KEYS
from frame.config.server_keys import SERVER_KEYS
from frame.config.settings import ModelConfig, ServerConfig, Source

_MASK = "***"
_FIELDS = {key.name: key.field for key in MODEL_KEYS}
_SECRETS = frozenset({"keystore_pass"})


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A value as text, as one would write it in the file, and where it comes from."""

    value: str
    source: Source


def shown_model_settings(config: ModelConfig) -> dict[str, ShownSetting]:
    """Return all settings of a model by key, `engine` first."""
    return {key: ShownSetting(_model_value(config, key), source) for key, source in config.sources.items()}


def shown_server_settings(config: ServerConfig) -> dict[str, ShownSetting]:
    """Return all settings of the server by key, in the order of the reference."""
    return {
        key.name: ShownSetting(
            _MASK if key.name in _SECRETS else _text(getattr(config, key.name)), config.sources[key.name]
        )
        for key in SERVER_KEYS
    }


def _model_value(config: ModelConfig, key: str) -> str:
    bare = key.removeprefix("option.")
    if key == "option.env":
        return ",".join(f"{name}={_MASK}" for name in config.env)
    if key == "engine":
        return config.engine
    if key in _FIELDS:
        return _text(getattr(config, _FIELDS[key]))
    if key in config.per_device:
        return _text(config.per_device[key])
    if key.startswith("option.") and hasattr(config.options, bare):
        return _text(getattr(config.options, bare))
    return config.properties[bare]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ";".join(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_text(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)

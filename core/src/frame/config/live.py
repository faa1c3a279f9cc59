"""Settings of a model that change while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from frame.config.keys import MODEL_KEYS
from frame.config.layers import Findings, Setting, typed_value
from frame.config.settings import ModelConfig, Source
from frame.errors import BadRequestError

LIVE_KEYS = ("batch_size", "job_queue_size", "max_batch_delay", "max_idle_time", "request_timeout")
"""Those that the router alone reads: workers need not start again."""


def with_settings(config: ModelConfig, changes: Mapping[str, str], source: Source) -> ModelConfig:
    """Return the configuration with other values.

    Args:
        changes: texts by key of serving.properties.

    Raises:
        BadRequestError: a key is unknown or not one of `LIVE_KEYS`, or a value is wrong; names it.
    """
    keys = {key.name: key for key in MODEL_KEYS}
    findings = Findings()
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in LIVE_KEYS:
            what = "cannot change while the model runs" if name in keys else "unknown"
            raise BadRequestError(f"Parameter {name}: {what}; these can: {', '.join(LIVE_KEYS)}.")
        values[name] = typed_value(keys[name], Setting(key=name, value=text, source=source), findings)
    if findings.problems:
        raise BadRequestError("; ".join(findings.problems))
    sources = MappingProxyType({**config.sources, **dict.fromkeys(changes, source)})
    return replace(config, **values, sources=sources)

"""What was registered, kept in a file for the next start (`model_snapshot`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from frame.errors import BadRequestError, ConfigError
from frame.http.host import Registration
from frame.http.traffic import rules_body, rules_of
from frame.policy.traffic import TrafficRules

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a snapshot has: the models in the order in which they came, and the traffic rules by model."""

    models: Sequence[Registration] = ()
    traffic: Mapping[str, TrafficRules] = field(default_factory=dict)


def read_snapshot(path: Path) -> Snapshot:
    """Return what the file has; nothing when there is no file.

    Raises:
        ConfigError: it cannot be read, or is none that `write_snapshot` has made.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["version"] != _VERSION:
            raise ConfigError(f"model_snapshot={path}: version {kept['version']}, expected {_VERSION}")
        return Snapshot(
            models=[_registration(item) for item in kept["models"]],
            traffic={name: rules_of(body) for name, body in kept.get("traffic", {}).items()},
        )
    except FileNotFoundError:
        return Snapshot()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadRequestError) as error:
        raise ConfigError(
            f"model_snapshot={path}: cannot be read: {type(error).__name__}: {error}"
        ) from error


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file, as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    kept = {
        "version": _VERSION,
        "models": [asdict(item) for item in snapshot.models],
        "traffic": {name: rules_body(rules) for name, rules in snapshot.traffic.items()},
    }
    text = json.dumps(kept, indent=1)
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # options may be secrets
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _registration(item: dict[str, Any]) -> Registration:
    texts = {str(key): str(value) for key, value in item["settings"].items()}
    return Registration(url=str(item["url"]), name=item["name"], version=item["version"], settings=texts)

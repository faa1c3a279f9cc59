"""What was registered, kept in a file for the next start (`model_snapshot`)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frame.errors import ConfigError
from frame.http.host import Registration

_VERSION = 1


def read_snapshot(path: Path) -> list[Registration]:
    """Return the models of the file, in the order in which they came; none when there is no file.

    Raises:
        ConfigError: it cannot be read, or is none that `write_snapshot` has made.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["version"] != _VERSION:
            raise ConfigError(f"model_snapshot={path}: version {kept['version']}, expected {_VERSION}")
        return [_registration(item) for item in kept["models"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model_snapshot={path}: cannot be read: {type(error).__name__}: {error}"
        ) from error


def write_snapshot(path: Path, models: Sequence[Registration]) -> None:
    """Replace the file, as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"version": _VERSION, "models": [asdict(item) for item in models]}, indent=1)
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

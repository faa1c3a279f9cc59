"""Read configuration files from disk and hand their text to the pure part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from frame.config.properties import Property, parse_properties
from frame.config.servers import build_server_config
from frame.config.settings import ServerConfig, Source
from frame.errors import ConfigError

_MAX_FILE_BYTES = 2**20
ENDPOINT_FILE = Path("/opt/ml/.sagemaker_infra/endpoint-metadata.json")
"""There on an endpoint of SageMaker, whose requests have an id of their own."""
_INFERENCE_ID = "x-amzn-sagemaker-inference-id"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def load_server_config(
    file: str | None, flags: Mapping[str, str], environ: Mapping[str, str], *, lenient: bool = False
) -> ServerConfig:
    """Read config.properties and build the server's configuration.

    Args:
        file: named with `-f`; None looks in `$MODEL_SERVER_HOME/conf`, then in `$MODEL_SERVER_HOME`.
        flags: by key, see `build_server_config`.

    Raises:
        ConfigError: a named file is missing or unreadable, or a setting is wrong.
    """
    path = _config_file(file, environ)
    properties = read_properties(path, str(path)) if path else []
    config = build_server_config(
        properties, str(path or ""), flags, environ, lenient=lenient, memory_bytes=available_memory_bytes()
    )
    if config.sources["request_id_header_key"].kind == "default" and ENDPOINT_FILE.exists():
        sources = {**config.sources, "request_id_header_key": Source("default", str(ENDPOINT_FILE))}
        return replace(config, request_id_header_key=_INFERENCE_ID, sources=MappingProxyType(sources))
    return config


def _config_file(file: str | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return Path(file)
    home = environ.get("MODEL_SERVER_HOME")
    if not home:
        return None
    candidates = (Path(home, "conf", "config.properties"), Path(home, "config.properties"))
    return next((path for path in candidates if path.is_file()), None)


def read_properties(path: Path, name: str) -> list[Property]:
    """Read a properties file in UTF-8, of at most 1 MiB.

    Args:
        name: what error texts call the file.

    Raises:
        ConfigError: it cannot be read, is no UTF-8, is too large, or is malformed.
    """
    return parse_properties(read_text(path, name), name)


def read_text(path: Path, name: str) -> str:
    """Read a file of settings in UTF-8, of at most 1 MiB; arguments and errors as of `read_properties`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            message = f"{name}: larger than {_MAX_FILE_BYTES} bytes; this is no file of settings"
            raise ConfigError(message)
        return data.decode("utf-8-sig")
    except OSError as error:
        message = f"{name}: cannot be read: {error.strerror}"
        raise ConfigError(message) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"{name}:{line}: not UTF-8; save the file as UTF-8 or write \\uXXXX"
        raise ConfigError(message) from error


def available_memory_bytes(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Return the memory of this machine or of this container (cgroup v2), whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = cgroup_limit.read_text().strip()
    except OSError:  # no cgroup v2 here, or the root group, which has no limit
        return total
    return min(total, int(text)) if text.isdecimal() else total

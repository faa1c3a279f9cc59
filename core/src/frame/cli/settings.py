"""From flags, files and environment to one object that the commands work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from frame.config.files import load_server_config
from frame.config.settings import ServerConfig
from frame.plugins import Plugins, load_plugins


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings:
    """Everything that `serve` and `check` start from."""

    server: ServerConfig
    models: tuple[str, ...]
    plugins: Plugins
    environ: Mapping[str, str]
    lenient: bool


def read_settings(
    *,
    store: str | None,
    store_flag: str | None,
    models: tuple[str, ...],
    config_file: str | None,
    host: str | None,
    port: int | None,
    http_server: str | None,
    lenient: bool,
    environ: Mapping[str, str],
) -> CommandSettings:
    """Read the configuration and load the plugins.

    Raises:
        ConfigError: a setting of the server is wrong.
    """
    given = {"model_store": store or store_flag, "host": host, "http_server": http_server}
    flags = {key: value for key, value in given.items() if value is not None}
    if port is not None:
        flags["port"] = str(port)
    return CommandSettings(
        server=load_server_config(config_file, flags, environ, lenient=lenient),
        models=models,
        plugins=load_plugins(),
        environ=dict(environ),
        lenient=lenient,
    )

"""Build the server's configuration: flags over environment over config.properties over defaults. Pure.

DJL Serving lets the environment win over its flags, since it applies it last; here flags win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from frame.config.forms import Address, parse_address
from frame.config.keys import MODEL_KEYS
from frame.config.layers import Findings, Setting, file_layer, merge_layers, typed_value
from frame.config.nearest import suggest_key
from frame.config.properties import Property
from frame.config.server_keys import SERVER_KEYS, UNUSED_SERVER_KEYS, UNUSED_VARIABLES
from frame.config.settings import ServerConfig, Source
from frame.contract.options import parse_value
from frame.errors import ConfigError

_PREFIX = "SERVING_"
_MEGABYTES = "SAGEMAKER_MAX_PAYLOAD_IN_MB"
_MAX_QUEUED_BYTES = 2**30
_MEMORY_SHARE = 4
_ADDRESS_FLAGS = ("host", "port")
_MAX_PORT = 65535


def build_server_config(
    properties: Sequence[Property],
    file: str,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    lenient: bool,
    memory_bytes: int,
) -> ServerConfig:
    """Check all settings of the server.

    Args:
        properties: of `file`, which may be empty when there is none.
        flags: by key (`model_store`, `http_server`, …); `host` and `port` change `inference_address`.
        lenient: unknown keys of the file are warnings.
        memory_bytes: memory that this process may use.

    Raises:
        ConfigError: every problem, one a line.
    """
    findings = Findings()
    settings = merge_layers([_flag_layer(flags), _variable_layer(environ), file_layer(properties, file)], {})
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for key in SERVER_KEYS:
        given = settings.pop(key.name, None)
        values[key.name] = key.default if given is None else typed_value(key, given, findings)
        sources[key.name] = Source("default", "") if given is None else given.source
    _apply_address_flags(settings, values, sources, findings)
    _check_unknown(settings, findings, lenient=lenient)
    _check_variables(environ, findings)
    if bool(values["private_key_file"]) != bool(values["certificate_file"]):
        findings.problems.append("private_key_file and certificate_file: give both or none")
    if findings.problems:
        raise ConfigError("\n".join(findings.problems))
    values["management_address"] = values["management_address"] or values["inference_address"]
    values["max_queued_bytes"] = values["max_queued_bytes"] or min(
        _MAX_QUEUED_BYTES, memory_bytes // _MEMORY_SHARE
    )
    values["async_result_max_bytes"] = values["async_result_max_bytes"] or values["max_queued_bytes"] // 4
    return ServerConfig(sources=MappingProxyType(sources), warnings=tuple(findings.warnings), **values)


def _flag_layer(flags: Mapping[str, str]) -> dict[str, Setting]:
    return {
        name: Setting(key=name, value=value, source=Source("flag", f"--{name.replace('_', '-')}"))
        for name, value in flags.items()
    }


def _variable_layer(environ: Mapping[str, str]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for key in SERVER_KEYS:
        for variable in (_PREFIX + key.name.upper(), *key.variables):
            if environ.get(variable) and key.name not in found:
                found[key.name] = Setting(
                    key=key.name, value=environ[variable], source=Source("env", variable)
                )
    megabytes = environ.get(_MEGABYTES, "").strip()
    if megabytes and "max_request_size" not in found:
        text = str(int(megabytes) << 20) if megabytes.isdecimal() else megabytes
        found["max_request_size"] = Setting(
            key="max_request_size", value=text, source=Source("env", _MEGABYTES)
        )
    return found


def _apply_address_flags(
    settings: dict[str, Setting], values: dict[str, Any], sources: dict[str, Source], findings: Findings
) -> None:
    """Let `--host` and `--port` change their part of `inference_address`; a Unix socket gives way to them."""
    given = {name: settings.pop(name) for name in _ADDRESS_FLAGS if _is_flag(settings.get(name))}
    address: Address = values["inference_address"]
    if given and address.scheme == "unix":
        address = parse_address("http://127.0.0.1:8080")
    if "host" in given:
        address = replace(address, host=given["host"].value.strip("[] "))
    if "port" in given:
        try:
            port = parse_value(given["port"].value, int, minimum=0, maximum=_MAX_PORT)
        except ValueError as error:
            findings.problems.append(f"port ({given['port'].source}): {error}")
        else:
            address = replace(address, port=int(port))
    values["inference_address"] = address
    for name in _ADDRESS_FLAGS:
        sources[name] = given[name].source if name in given else sources["inference_address"]


def _is_flag(setting: Setting | None) -> bool:
    return setting is not None and setting.source.kind == "flag"


def _check_unknown(settings: Mapping[str, Setting], findings: Findings, *, lenient: bool) -> None:
    unused = {key.name: key for key in UNUSED_SERVER_KEYS}
    known = {*(key.name for key in SERVER_KEYS), *unused}
    for name, setting in settings.items():
        if name in unused:
            findings.warnings.append(
                f"{name} ({setting.source}): has no meaning here; {unused[name].instead}"
            )
            continue
        meant = suggest_key(name, known)
        hint = f"did you mean {meant}?" if meant else "no key is like it; docs/configuration.md lists them"
        if lenient:
            findings.warnings.append(f"{name} ({setting.source}): unknown, ignored; {hint}")
        else:
            findings.problems.append(f"{name} ({setting.source}): unknown; {hint}")


def _check_variables(environ: Mapping[str, str], findings: Findings) -> None:
    """Warn of variables without effect; an unknown one is no problem, as it may be another program's."""
    unused = {key.name: key.instead for key in UNUSED_VARIABLES}
    unused |= {_PREFIX + key.name.upper(): key.instead for key in UNUSED_SERVER_KEYS}
    known = {variable for key in (*SERVER_KEYS, *MODEL_KEYS) for variable in key.variables}
    known |= {_PREFIX + key.name.upper() for key in SERVER_KEYS}
    for variable in sorted(name for name, value in environ.items() if value):
        if variable in unused:
            findings.warnings.append(f"{variable}: has no meaning here; {unused[variable]}")
        elif variable.startswith(_PREFIX) and variable not in known:
            meant = suggest_key(variable, known)
            hint = f"; did you mean {meant}?" if meant else ""
            findings.warnings.append(f"{variable}: unknown, ignored{hint}")

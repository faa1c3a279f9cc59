"""Settings as they were given, and how those of several sources are laid over each other. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frame.config.keys import ARGUMENTS, MODEL_KEYS, UNUSED_MODEL_KEYS, Key
from frame.config.properties import Property
from frame.config.settings import Source
from frame.contract.options import parse_value

_DEFAULT_ACCEPT = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
_CAPITALS = re.compile(r"[A-Z_0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key as it was spelled, its text and where it stood."""

    key: str
    value: str
    source: Source


@dataclass(slots=True)
class Findings:
    """What a check found; problems refuse, warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def file_layer(properties: Iterable[Property], file: str) -> dict[str, Setting]:
    """Give the properties of a file their place: `file:line`."""
    return {
        entry.key: Setting(key=entry.key, value=entry.value, source=Source("file", f"{file}:{entry.line}"))
        for entry in properties
    }


def environment_layer(environ: Mapping[str, str], spellings: Iterable[str]) -> dict[str, Setting]:
    """Return what the environment says to every model: `OPTION_*`, `ARGS_*`, `Key.variables`.

    A variable in capitals is matched without regard to case (`OPTION_ENTRYPOINT` is
    `option.entryPoint`) and else lower-cased; other spellings stay. Empty variables do not count.

    Args:
        spellings: the options of the installed engines, with `option.`.
    """
    found = {
        key.name: Setting(key=key.name, value=environ[variable], source=Source("env", variable))
        for key in MODEL_KEYS
        for variable in key.variables
        if environ.get(variable)
    }
    accept = environ.get(_DEFAULT_ACCEPT)
    if accept:
        key = "option.default_accept"
        found[key] = Setting(key=key, value=accept, source=Source("env", _DEFAULT_ACCEPT))
    known = {name.lower(): name for name in (*spellings, *_known_names())}
    for variable, value in sorted(environ.items()):
        name = _variable_key(variable, known)
        if name and value:
            found[name] = Setting(key=name, value=value, source=Source("env", variable))
    return found


def _known_names() -> Iterable[str]:
    yield "engine"
    for key in MODEL_KEYS:
        yield key.name
    yield from ARGUMENTS
    for unused in UNUSED_MODEL_KEYS:
        yield unused.name


def _variable_key(variable: str, known: Mapping[str, str]) -> str | None:
    for prefix, family in (("OPTION_", "option."), ("ARGS_", "")):
        bare = variable.removeprefix(prefix)
        if bare in {variable, ""}:
            continue
        if bare == "ENGINE":
            return "engine"
        if not _CAPITALS.fullmatch(bare):
            return family + bare
        return known.get(family + bare.lower(), family + bare.lower())
    return None


def merge_layers(layers: Sequence[Mapping[str, Setting]], names: Mapping[str, str]) -> dict[str, Setting]:
    """Lay settings over each other, the first layer on top, and return them by name.

    Args:
        names: the name of a key by each of its other spellings. Within a layer the name itself wins.
    """
    merged: dict[str, Setting] = {}
    for layer in layers:
        on_top = frozenset(merged)
        for setting in sorted(layer.values(), key=lambda item: item.key not in names):
            name = names.get(setting.key, setting.key)
            if name not in on_top:
                merged[name] = setting
    return merged


def alias_names(keys: Iterable[Key]) -> dict[str, str]:
    """Return the name of a key by each of its aliases."""
    return {alias: key.name for key in keys for alias in key.aliases}


def typed_value(key: Key, setting: Setting, findings: Findings) -> object:
    """Return the typed value of a known key; a malformed one is a problem, and its default is returned."""
    text = setting.value.strip()
    if not text and (key.kind is str or key.default is None):
        return key.default
    try:
        if key.parse is not None:
            return key.parse(text)
        return parse_value(text, key.kind, choices=key.choices, minimum=key.minimum, maximum=key.maximum)
    except ValueError as error:
        findings.problems.append(f"{setting.key} ({setting.source}): {error}")
        return key.default

"""Typed `option.*` values: from strings to an instance of an engine's options dataclass. Pure."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_TRUTH = {"true": True, "false": False}


class OptionError(ValueError):
    """One option is unknown or malformed.

    Attributes:
        key: the spelling that was given, without `option.`.
        message: what is wrong and what is valid, without the key.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"option.{key}: {message}")
        self.key = key
        self.message = message


def parse_value(
    text: str,
    kind: type,
    *,
    choices: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> str | int | float | bool:
    """Turn `text` into a `kind`: str, int, float or bool; white space around it does not count.

    Raises:
        ValueError: with what was given and what is valid.
    """
    text = text.strip()
    if choices and text not in choices:
        message = f"{text!r} is not one of {', '.join(choices)}"
        raise ValueError(message)
    value = _converted(text, kind)
    if value is None or not _in_range(value, minimum, maximum):
        message = f"{text!r} is not {_describe(kind, minimum, maximum)}"
        raise ValueError(message)
    return value


def _converted(text: str, kind: type) -> str | int | float | bool | None:
    """Return the value, or None when `text` does not spell one."""
    if kind is str:
        return text
    if kind is bool:
        return _TRUTH.get(text.lower())
    if kind is int:
        return int(text) if _INTEGER.fullmatch(text) else None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _in_range(value: str | float, minimum: float | None, maximum: float | None) -> bool:
    if isinstance(value, (str, bool)):
        return True
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _describe(kind: type, minimum: float | None, maximum: float | None) -> str:
    if kind is bool:
        return "true or false"
    noun = "a whole number" if kind is int else "a number"
    if minimum is not None and maximum is not None:
        return f"{noun} from {minimum:g} to {maximum:g}"
    if minimum is not None:
        return f"{noun} >= {minimum:g}"
    return f"{noun} <= {maximum:g}" if maximum is not None else noun


def option_keys(options_type: type) -> dict[str, Field[Any]]:
    """Return every accepted spelling of every option, with its field."""
    found: dict[str, Field[Any]] = {}
    for item in fields(options_type):
        for spelling in (item.name, *item.metadata.get("aliases", ())):
            found.setdefault(spelling, item)
    return found


def option_type(options_type: type, item: Field[Any]) -> tuple[type, bool]:
    """Return the type of an option and whether it may be None (then an empty value means None).

    Raises:
        TypeError: the field has another type than `option()` allows; the engine's author can fix it.
    """
    hint = get_type_hints(options_type)[item.name]
    members = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    kinds = [member for member in members if member is not type(None)]
    if len(kinds) != 1 or kinds[0] not in {str, int, float, bool}:
        message = (
            f"{options_type.__name__}.{item.name}: an option is str, int, float or bool, each also | None"
        )
        raise TypeError(message)
    return kinds[0], len(members) > 1


def check_options(options_type: type, values: Mapping[str, str]) -> tuple[dict[str, Any], list[OptionError]]:
    """Type all values: return those that are right, by field name, and an error for each other.

    When an option is given under several spellings, its field's own name wins.
    """
    keys = option_keys(options_type)
    typed: dict[str, Any] = {}
    errors: list[OptionError] = []
    for spelling in sorted(values, key=lambda key: key in keys and keys[key].name == key):
        if spelling not in keys:
            valid = ", ".join(sorted(item.name for item in fields(options_type))) or "none"
            errors.append(OptionError(spelling, f"unknown; valid options: {valid}"))
            continue
        try:
            typed[keys[spelling].name] = _option_value(options_type, keys[spelling], values[spelling])
        except ValueError as error:
            errors.append(OptionError(spelling, str(error)))
    return typed, errors


def _option_value(options_type: type, item: Field[Any], text: str) -> object:
    kind, may_be_none = option_type(options_type, item)
    if may_be_none and not text.strip():
        return None
    return parse_value(
        text, kind, choices=item.metadata.get("choices", ()), minimum=item.metadata.get("minimum")
    )


def parse_options(options_type: type, values: Mapping[str, str]) -> object:
    """Build the options dataclass from strings.

    Raises:
        OptionError: the first value that is unknown or malformed.
    """
    typed, errors = check_options(options_type, values)
    if errors:
        raise errors[0]
    return options_type(**typed)

"""Java properties text to keys, values and lines. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import javaproperties

from frame.errors import ConfigError

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One `key=value` of a properties file; `line` is where its key stands, counted from 1."""

    key: str
    value: str
    line: int


def parse_properties(text: str, file: str) -> list[Property]:
    """Return the properties in the order of their lines; of a key given twice the last one stays, as in Java.

    Args:
        text: the decoded file.
        file: its name, for error texts.

    Raises:
        ConfigError: an escape sequence is malformed; names the file and the line.
    """
    found: dict[str, Property] = {}
    line = 1
    try:
        for item in javaproperties.parse(text):
            if isinstance(item, javaproperties.KeyValue):
                found.pop(item.key, None)
                found[item.key] = Property(key=item.key, value=item.value, line=line)
            line += len(_LINE_END.findall(item.source))
    except javaproperties.InvalidUEscapeError as error:
        message = (
            f"{file}:{line}: {error.escape!r} is not a Unicode escape; write \\uXXXX with four hex digits"
        )
        raise ConfigError(message) from error
    return list(found.values())

"""Whether two versions of a model gave the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from math import isclose
from typing import Literal

import msgspec

from frame.pool.jobs import Answer

Result = Literal["equal", "different", "failed", "not_compared"]

MAX_JSON_BYTES = 64 << 10
"""Longer JSON answers are equal when their bytes are; looking into them would hold up other requests."""
_SUCCESS = range(200, 300)
_LONGEST_KEY, _LONGEST_PLACE = 40, 200
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a copied request came to.

    Attributes:
        result: `failed`: the shadow did, and the version that answered did not; `not_compared`: an answer was
            a stream, or there is none.
        place: where answers differ: `status`, `body`, or the path of the first JSON value that does.
    """

    result: Result
    place: str = ""


def compare(answer: Answer, shadow: Answer, tolerance: float) -> Comparison:
    """Compare a version's answer with that of its shadow.

    Args:
        tolerance: numbers in JSON are equal when they differ by no more, absolutely or relatively.
    """
    if answer.stream is not None or shadow.stream is not None:
        return Comparison("not_compared")
    if answer.status in _SUCCESS and shadow.status >= 400:  # noqa: PLR2004  # RFC 9110: errors from here on
        return Comparison("failed", "status")
    if answer.status != shadow.status:
        return Comparison("different", "status")
    if answer.status not in _SUCCESS or answer.body == shadow.body:  # error texts have ids of their own
        return Comparison("equal")
    try:
        keys = _first_difference(_parsed(answer), _parsed(shadow), tolerance)
    except (msgspec.DecodeError, ValueError, RecursionError):  # no JSON, or none that is looked into
        return Comparison("different", "body")
    return Comparison("equal") if keys is None else Comparison("different", _place(keys))


def _parsed(answer: Answer) -> object:
    """Return the JSON value of an answer; raises `ValueError` or msgspec's error when it is none."""
    types = (value.lower() for key, value in answer.properties.items() if key.lower() == "content-type")
    body = answer.body or b""
    if "json" not in next(types, "json") or len(body) > MAX_JSON_BYTES:  # handlers often name no type
        raise ValueError("no JSON, or too long")
    return msgspec.json.decode(body)


def _first_difference(one: object, other: object, tolerance: float) -> list[str | int] | None:
    """Return the keys that lead to the first value that differs, the innermost first; None: there is none."""
    pairs: Iterable[tuple[str | int, object, object]]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return []
        pairs = ((key, value, other[key]) for key, value in one.items())
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return []
        pairs = ((index, *both) for index, both in enumerate(zip_longest(one, other, fillvalue=_ABSENT)))
    else:
        return None if _is_same(one, other, tolerance) else []
    for key, a, b in pairs:
        if type(a) is float and type(b) is float:  # most values of most answers
            if a == b or isclose(a, b, rel_tol=min(tolerance, 1.0), abs_tol=tolerance):
                continue
            return [key]
        keys = _first_difference(a, b, tolerance)
        if keys is not None:
            return [*keys, key]
    return None


def _is_same(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if one == other:
        return True
    if isinstance(one, int | float) and isinstance(other, int | float):
        try:
            return isclose(one, other, rel_tol=min(tolerance, 1.0), abs_tol=tolerance) and tolerance > 0
        except OverflowError:  # an integer that no float holds
            return False
    return False


def _place(keys: list[str | int]) -> str:
    """Return a path; keys are clients' texts, so they are quoted and cut."""
    words = (f"[{key}]" if isinstance(key, int) else f".{_shown(key)}" for key in reversed(keys))
    return f"${''.join(words)}"[:_LONGEST_PLACE]


def _shown(key: str) -> str:
    is_plain = key.isidentifier() and key.isascii() and len(key) <= _LONGEST_KEY
    return key if is_plain else json.dumps(key[:_LONGEST_KEY])

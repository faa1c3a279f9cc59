"""Whether two versions of a model gave the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import Literal

import msgspec

from frame.pool.jobs import Answer

Result = Literal["equal", "different", "failed", "not_compared"]

MAX_JSON_BYTES = 256 << 10
"""Longer JSON answers are equal when their bytes are; parsing them would hold up other requests."""
_SUCCESS = range(200, 300)


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
    values = _parsed(answer), _parsed(shadow)
    if msgspec.UNSET in values:
        return Comparison("different", "body")
    try:
        place = _first_difference(*values, tolerance, "$")
    except RecursionError:
        place = "body"
    return Comparison("different", place) if place else Comparison("equal")


def _parsed(answer: Answer) -> object:
    """Return the JSON value of an answer; UNSET when it is none, or too long to look into."""
    types = (value.lower() for key, value in answer.properties.items() if key.lower() == "content-type")
    body = answer.body or b""
    if "json" not in next(types, "json") or len(body) > MAX_JSON_BYTES:  # handlers often name no type
        return msgspec.UNSET
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.UNSET


def _first_difference(one: object, other: object, tolerance: float, path: str) -> str:
    """Return the path of the first value that differs; empty when there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return path
        pairs = ((one[key], other[key], f"{path}.{key}") for key in one)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return path
        pairs = ((a, b, f"{path}[{index}]") for index, (a, b) in enumerate(zip(one, other, strict=True)))
    else:
        return "" if _is_same(one, other, tolerance) else path
    places = (_first_difference(a, b, tolerance, where) for a, b, where in pairs)
    return next((place for place in places if place), "")


def _is_same(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=min(tolerance, 1.0), abs_tol=tolerance)
    return one == other

"""Answers of two versions are equal, different, failed or not to be compared."""

from __future__ import annotations

import json

import pytest
from frame.pool.comparison import MAX_JSON_BYTES, Comparison, compare
from frame.pool.jobs import Answer, JobStream

JSON = {"Content-Type": "application/json; charset=utf-8"}


def answer(value: object, *, status: int = 200, properties: dict[str, str] | None = None) -> Answer:
    """Return an answer of JSON, or of the bytes that are given."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Answer(status=status, message="", body=body, properties=JSON if properties is None else properties)


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "place"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0]}, 0.0, ""),
        (b'{"a":1,"b":2}', b'{ "b": 2, "a": 1.0 }', 0.0, ""),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0001]}, 0.0, "$.a[1]"),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0001]}, 1e-3, ""),
        ({"a": 1e6}, {"a": 1e6 + 10}, 1e-4, ""),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.1]}, 1e-3, "$.a[1]"),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, 1.0, "$.a"),
        ({"a": 1}, {"b": 1}, 1.0, "$"),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, 1.0, "$.a.b"),
        ([True], [1], 1.0, "$[0]"),
        ([None], [0], 1.0, "$[0]"),
        ([[1]], [1], 1.0, "$[0]"),
        (b"no json", b"none either", 1.0, "body"),
        (b'["\xff"]', b'["\xfe"]', 1.0, "body"),
        ([10**400], [10**400 + 1], 1.0, "$[0]"),
        ([9007199254740993], [9007199254740992], 0.0, "$[0]"),
        ({"a b\n2026 ERROR": 1}, {"a b\n2026 ERROR": 2}, 0.0, '$."a b\\n2026 ERROR"'),
        ({"k" * 99: 1}, {"k" * 99: 2}, 0.0, f'$."{"k" * 40}"'),
    ],
)
def test_json_is_compared_by_value(one: object, other: object, tolerance: float, place: str) -> None:
    expected = Comparison("different", place) if place else Comparison("equal")
    assert compare(answer(one), answer(other), tolerance) == expected


def test_other_answers_are_compared_by_their_bytes() -> None:
    plain = {"content-type": "text/plain"}
    assert compare(answer(b"1.0", properties=plain), answer(b"1.0", properties=plain), 0.1).result == "equal"
    assert compare(answer(b"1.0", properties=plain), answer(b"1.00", properties=plain), 0.1).place == "body"
    nameless = answer([1.0], properties={}), answer([1.0001], properties={})
    assert compare(*nameless, 0.1).result == "equal"  # JSON, though nobody says so
    mapped = Answer(status=200, message="", body=memoryview(b"xyz"))
    assert compare(mapped, answer(b"xyz", properties={}), 0.0).result == "equal"


def test_json_too_long_to_look_into_is_compared_by_its_bytes() -> None:
    long = [1.0] * MAX_JSON_BYTES
    assert compare(answer(long), answer([*long[:-1], 1.1]), 1.0) == Comparison("different", "body")
    assert compare(answer(long), answer(long), 0.0).result == "equal"


@pytest.mark.parametrize("depth", [500, 900, 100_000])
def test_what_nests_too_deep_breaks_nothing(depth: int) -> None:
    one, other = (b"[" * depth + item + b"]" * depth for item in (b"1", b"2"))
    assert compare(answer(one), answer(other), 0.0).result == "different"


@pytest.mark.parametrize(
    ("status", "shadow", "expected"),
    [
        (200, 500, Comparison("failed", "status")),
        (200, 400, Comparison("failed", "status")),
        (200, 201, Comparison("different", "status")),
        (424, 200, Comparison("different", "status")),
        (424, 503, Comparison("different", "status")),
        (424, 424, Comparison("equal")),
    ],
)
def test_statuses_are_compared_first(status: int, shadow: int, expected: Comparison) -> None:
    assert compare(answer(b"x1", status=status), answer(b"x2", status=shadow), 0.0) == expected


def test_streams_are_not_compared() -> None:
    stream = Answer(
        status=200, message="", stream=JobStream(grant=lambda: None, cancel=lambda: None), body=None
    )
    assert compare(stream, answer(b"x"), 0.0).result == "not_compared"
    assert compare(answer(b"x"), stream, 0.0).result == "not_compared"

"""The bytes that every answer shares."""

from __future__ import annotations

import json
import uuid

import pytest
from frame.http.answers import common_headers, error_body, pretty_json, request_id_from


def test_error_body_is_djl_servings_error_json() -> None:
    body = error_body(424, "HandlerError", 'a "quoted" line\nand ü')
    assert body.endswith(b"}\n")
    assert body.startswith(b'{\n  "code": 424,\n  "type": "HandlerError",\n  "message": "')
    assert json.loads(body) == {"code": 424, "type": "HandlerError", "message": 'a "quoted" line\nand ü'}


def test_error_body_keeps_percent_signs() -> None:
    assert json.loads(error_body(400, "A%d", "100 %s"))["message"] == "100 %s"


def test_pretty_json_leaves_out_nulls_at_any_depth_and_ends_with_a_newline() -> None:
    text = pretty_json({"a": None, "b": [{"c": None, "d": 1}], "e": (2, 3)})
    assert text.endswith(b"\n")
    assert json.loads(text) == {"b": [{"d": 1}], "e": [2, 3]}
    assert b'\n  "b": [' in text


def test_common_headers_are_djl_servings() -> None:
    headers = dict(common_headers("abc"))
    assert headers == {
        b"x-request-id": b"abc",
        b"pragma": b"no-cache",
        b"cache-control": b"no-cache; no-store, must-revalidate, private",
        b"expires": b"Thu, 01 Jan 1970 00:00:00 UTC",
    }


def test_callers_may_append_to_common_headers() -> None:
    common_headers("abc").append((b"content-length", b"1"))
    assert b"content-length" not in dict(common_headers("abc"))


@pytest.mark.parametrize("value", [b"a", b"x-1 y", b"~" * 128])
def test_fit_request_id_is_kept(value: bytes) -> None:
    assert request_id_from([(b"host", b"h"), (b"x-request-id", value)]) == value.decode()


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b" a", b"a ", b"a\tb", b"a\nb", b"\x7f", "ü".encode(), "ü".encode("latin-1"), b"a" * 129],
)
def test_unfit_request_id_is_replaced(value: bytes) -> None:
    made = request_id_from([(b"x-request-id", value)])
    assert uuid.UUID(made).version == 4


def test_absent_request_id_is_made_anew_each_time() -> None:
    assert request_id_from([]) != request_id_from([])


def test_request_id_header_can_be_another() -> None:
    headers = [(b"x-request-id", b"one"), (b"x-amzn-sagemaker-inference-id", b"two")]
    assert request_id_from(headers, b"x-amzn-sagemaker-inference-id") == "two"

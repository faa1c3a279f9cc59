"""`encode_decode`: payloads by content type, predictions by Accept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from djl_python import Input, Output
from djl_python.encode_decode import decode, encode
from djl_python.np_util import from_nd_list, to_nd_list


def made(data: bytes) -> Input:
    inputs = Input()
    inputs.content.add("data", bytearray(data))
    return inputs


@pytest.mark.parametrize(
    ("content_type", "data", "expected"),
    [
        (None, b'{"a": 1}', {"a": 1}),
        (None, b"", {"inputs": ""}),
        ("application/json;charset=utf-8", b"[1]", [1]),
        ("text/plain", b"hi", {"inputs": ["hi"]}),
        ("text/csv", b"inputs,x\na,1\nb,2\n", {"inputs": ["a", "b"]}),
        ("text/csv", b"question,context\nq,c\n", {"inputs": [{"question": "q", "context": "c"}]}),
        ("application/x-www-form-urlencoded", b"a=1", {"inputs": "a=1"}),
        ("audio/wav", b"RIFF", {"inputs": b"RIFF"}),
    ],
)
def test_payloads_are_decoded_by_content_type(content_type, data, expected):
    assert decode(made(data), content_type) == expected


def test_arrays_are_decoded():
    decoded = decode(made(bytes(to_nd_list(np.arange(3)))), "tensor/ndlist")
    assert decoded["inputs"][0].tolist() == [0, 1, 2]


def test_csv_without_headers_is_an_array():
    assert decode(made(b"1,2\n3,4\n"), "text/csv", require_csv_headers=False).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("data", [b"1,x\n", b"1,2\n3\n"])
def test_csv_that_is_no_table_of_numbers_is_refused(data):
    with pytest.raises(ValueError, match=r"numbers only|inhomogeneous"):
        decode(made(data), "text/csv", require_csv_headers=False)


def test_csv_without_a_known_column_is_refused():
    with pytest.raises(ValueError, match="question, context, inputs"):
        decode(made(b"a,b\n1,2\n"), "text/csv")


@pytest.mark.parametrize("accept", [None, "", "*/*", "application/json", "text/html, application/json;q=0.9"])
def test_json_is_the_default_answer(accept):
    output = Output()
    encode(output, {"a": [1]}, accept)
    assert json.loads(output.content.value_at(0)) == {"a": [1]}
    assert output.get_property("content-type") == "application/json"


def test_csv_answers_are_written():
    output = Output()
    encode(output, [{"a": 1, "b": "x,y"}], "text/csv")
    assert output.content.value_at(0) == b'a,b\r\n1,"x,y"\r\n'
    assert output.get_property("Content-Type") == "text/csv"


@pytest.mark.parametrize(
    ("accept", "kind"), [("tensor/npz", "tensor/npz"), ("tensor/ndlist", "tensor/ndlist")]
)
def test_array_answers_are_written(accept, kind):
    output = Output()
    encode(output, [np.arange(2)], accept)
    assert from_nd_list(output.content.value_at(0))[0].tolist() == [0, 1]
    assert output.get_property("Content-Type") == kind

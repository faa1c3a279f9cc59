"""The Open Inference Protocol's JSON and binary forms: what is read, what is written, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from frame.contract.properties import Properties
from frame.contract.requests import Part, RequestError, Response
from frame.contract.signatures import Signature, TensorSpec
from frame.worker.codecs import open_inference
from frame.worker.codecs.open_inference import InferTensors

ROWS = TensorSpec("x", "float32", (-1, 2))
WORDS = TensorSpec("words", "str", (-1,))
SUM = TensorSpec("y", "float32", (-1,))
BLOB = TensorSpec("blob", "bytes", (-1,))
SIGNATURE = Signature((ROWS, WORDS), (SUM, BLOB))
X = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
TEXT = {"name": "words", "shape": [2], "datatype": "BYTES", "data": ["ä", "b"]}


def read(body: Any, raw: bytes = b"", *, length: str | None = None) -> InferTensors:
    """Decode a request."""
    head = body if isinstance(body, bytes) else json.dumps(body).encode()
    is_binary = raw or length is not None
    headers = {"Inference-Header-Content-Length": length or str(len(head))} if is_binary else {}
    return open_inference.decode([Part("data", head + raw)], Properties(headers), SIGNATURE)


def write(asked: InferTensors, **outputs: Any) -> tuple[dict[str, Any], bytes, Response]:
    """Encode an answer; return its JSON, what follows it, and itself."""
    properties = Properties({"x-frame-model-name": "m", "x-frame-model-version": "3"})
    response = open_inference.encode(asked.answer(outputs), properties, SIGNATURE)
    body = bytes(response.parts[0].data)
    length = int(response.properties.get("Inference-Header-Content-Length", len(body)))
    return json.loads(body[:length]), body[length:], response


def answer(**request: Any) -> tuple[dict[str, Any], bytes, Response]:
    """Ask, and answer with fixed outputs."""
    asked = read({"inputs": [X, TEXT], **request})
    blob = np.empty(2, object)
    blob[:] = [b"one", b"two"]
    return write(asked, y=np.array([3, 7], "float32"), blob=blob)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_json_is_read_flat_and_nested_in_any_order(data: list[Any]) -> None:
    found = read({"inputs": [TEXT, {**X, "data": data}]})
    assert list(found) == ["x", "words"]
    np.testing.assert_array_equal(found["x"], np.array([[1, 2], [3, 4]], "float32"))
    assert found["words"].tolist() == ["ä", "b"]


def test_binary_tensors_follow_the_json_beside_others() -> None:
    numbers = np.array([[1, 2], [3, 4]], "<f4").tobytes()
    words = b"\x02\0\0\0\xc3\xa4\x01\0\0\0b"
    body = {
        "inputs": [
            {
                "name": "words",
                "shape": [2],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(words)},
            },
            {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
        ]
    }
    found = read(body, words + numbers)
    assert found["words"].tolist() == ["ä", "b"]
    np.testing.assert_array_equal(found["x"], [[1, 2], [3, 4]])
    mixed = read({"inputs": [TEXT, body["inputs"][1]]}, numbers)
    np.testing.assert_array_equal(mixed["x"], [[1, 2], [3, 4]])


def test_an_answer_has_all_outputs_as_json_unless_it_was_asked_otherwise() -> None:
    head, rest, response = answer(id="seven")
    assert head == {
        "model_name": "m",
        "model_version": "3",
        "id": "seven",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2], "data": [3.0, 7.0]},
            {"name": "blob", "datatype": "BYTES", "shape": [2], "data": ["one", "two"]},
        ],
    }
    assert rest == b""
    assert response.properties["Content-Type"] == "application/json"


def test_outputs_are_chosen_in_order_each_in_its_form() -> None:
    wanted = [{"name": "blob", "parameters": {"binary_data": True}}, {"name": "y"}]
    head, rest, response = answer(outputs=wanted)
    blob, total = head["outputs"]
    assert (blob["name"], blob["parameters"], "data" in blob) == ("blob", {"binary_data_size": 14}, False)
    assert total["data"] == [3.0, 7.0]
    assert rest == b"\x03\0\0\0one\x03\0\0\0two"
    assert response.properties["Content-Type"] == "application/octet-stream"


def test_one_parameter_makes_all_outputs_binary_but_those_that_say_no() -> None:
    _, rest, _ = answer(parameters={"binary_data_output": True})
    assert rest == np.array([3, 7], "<f4").tobytes() + b"\x03\0\0\0one\x03\0\0\0two"
    outputs = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "blob"}]
    head, rest, _ = answer(parameters={"binary_data_output": True}, outputs=outputs)
    assert head["outputs"][0]["data"] == [3.0, 7.0]
    assert len(rest) == 14


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is no JSON"),
        (b"[1]", "the body: expected an object"),
        (b'{"inputs": [NaN]}', "NaN is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        ({}, "inputs: expected a list"),
        ({"inputs": [1]}, "inputs: an element: expected an object"),
        ({"inputs": [{**X, "name": 1}]}, "inputs: name: expected a string"),
        ({"inputs": [{**X, "datatype": "FP99"}]}, "input x: unknown datatype FP99"),
        ({"inputs": [{**X, "shape": [2, -2]}]}, "input x: shape: expected a list of whole numbers"),
        ({"inputs": [{**X, "shape": [True]}]}, "input x: shape: expected a list of whole numbers"),
        ({"inputs": [{**X, "shape": [1] * 33}]}, "at most 32 sizes"),
        ({"inputs": [{**X, "shape": [1 << 40, 1 << 40]}]}, "shape: too large"),
        ({"inputs": [X, X]}, "input x: given twice"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, "neither data nor the parameter"),
        ({"inputs": [X]}, "input words: missing"),
        ({"inputs": [X, TEXT, {**X, "name": "z"}]}, "input z: unknown"),
        ({"inputs": [{**X, "shape": [4]}, TEXT]}, r"input x: expected float32 \[-1, 2\]"),
        ({"inputs": [{**X, "shape": [2], "data": [1, 2]}, TEXT]}, "input"),
        ({"inputs": [{**X, "datatype": "FP64"}, TEXT]}, r"input x: expected float32 \[-1, 2\], got float64"),
        ({"inputs": [X, TEXT], "outputs": [{"name": "q"}]}, "output q: unknown; the outputs are y, blob"),
        (
            {"inputs": [X, TEXT], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "not supported",
        ),
        ({"inputs": [X, TEXT], "id": 7}, "id: expected a string"),
        ({"inputs": [X, TEXT], "parameters": []}, "parameters: expected an object"),
    ],
)
def test_wrong_json_says_what_is_wrong(body: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("size", "raw", "length", "said"),
    [
        (16, b"\0" * 15, None, "binary_data_size is 16, but 15 bytes are left"),
        (16, b"\0" * 17, None, "1 bytes after its last tensor"),
        (15, b"\0" * 15, None, "expected 16 bytes for FP32"),
        (-1, b"\0", None, "binary_data_size: expected a whole number"),
        ("16", b"\0" * 16, None, "binary_data_size: expected a whole number"),
        (16, b"\0" * 16, "99999", "inference-header-content-length: expected the bytes of JSON"),
        (16, b"\0" * 16, "-1", "inference-header-content-length: expected the bytes of JSON"),
        (16, b"\0" * 16, "٣", "inference-header-content-length: expected the bytes of JSON"),
    ],
)
def test_wrong_binary_bodies_say_what_is_wrong(size: Any, raw: bytes, length: str | None, said: str) -> None:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    with pytest.raises(RequestError, match=said) as caught:
        read({"inputs": [tensor, TEXT]}, raw, length=length)
    assert caught.value.status == 400


def test_text_that_is_not_utf8_is_the_clients_error() -> None:
    words = {"name": "words", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 10}}
    with pytest.raises(RequestError, match="input words: expected text, got bytes that are not UTF-8"):
        read({"inputs": [X, words]}, b"\1\0\0\0\xff\1\0\0\0b")


def test_what_json_cannot_hold_is_sent_as_raw_bytes() -> None:
    asked = read({"inputs": [X, TEXT], "outputs": [{"name": "y"}]})
    with pytest.raises(RequestError, match="ask for binary data"):
        write(asked, y=np.array([np.nan], "float32"))
    binary = read({"inputs": [X, TEXT], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    _, rest, _ = write(binary, y=np.array([np.nan], "float32"))
    assert np.isnan(np.frombuffer(rest, "<f4")).all()

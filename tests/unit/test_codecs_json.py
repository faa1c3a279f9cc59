"""JSON bodies: what is read, what is refused with which words, and how answers are written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frame.api import RequestError, Signature, TensorSpec
from frame.worker.codecs import json_tensors
from frame.worker.codecs.fitting import RequestTensors

OUT = (TensorSpec("y", "float32", (-1, 2)),)
X = Signature((TensorSpec("x", "float32", (-1, 2)),), OUT)
INTS = Signature((TensorSpec("x", "int8", (-1, 2)),), OUT)
TWO = Signature((TensorSpec("a", "int64", (-1, 2)), TensorSpec("b", "float32", (-1,))), OUT)
WORDS = Signature((TensorSpec("x", "str", (-1,)),), OUT)
BLOBS = Signature((TensorSpec("x", "bytes", (-1,)),), OUT)
RATE = Signature((TensorSpec("x", "float32", (-1, 2)), TensorSpec("sr", "int64", ())), OUT)
ANY = Signature((TensorSpec("x", "", None),), OUT)


def loads(value, signature=X):
    text = value if isinstance(value, (str, bytes)) else json.dumps(value)
    return json_tensors.loads(text.encode() if isinstance(text, str) else text, signature)


@pytest.mark.parametrize(
    "body", [[[1, 2.5]], {"inputs": [[1, 2.5]]}, {"instances": [[1, 2.5]]}, {"inputs": {"x": [[1, 2.5]]}}]
)
def test_every_way_to_write_one_input_gives_the_same_array(body):
    array = loads(body)["x"]
    assert array.tolist() == [[1.0, 2.5]]
    assert array.dtype == np.float32


def test_rows_as_objects_and_columns_give_the_same_arrays():
    rows = loads({"instances": [{"a": [1, 2], "b": 0.5}, {"b": 1.5, "a": [3, 4]}]}, TWO)
    columns = loads({"inputs": {"b": [0.5, 1.5], "a": [[1, 2], [3, 4]]}}, TWO)
    assert list(rows) == list(columns) == ["a", "b"]
    assert all(np.array_equal(rows[name], columns[name]) for name in rows)
    assert rows.is_rows
    assert not columns.is_rows


def test_one_row_without_batch_axis_gets_one_and_says_so():
    tensors = loads([1, 2])
    assert tensors["x"].shape == (1, 2)
    assert not tensors.has_batch_axis
    assert loads({"inputs": {"a": [1, 2], "b": 3}}, TWO)["b"].tolist() == [3.0]


def test_a_scalar_is_shared_by_all_rows():
    assert loads({"inputs": {"x": [[1, 2], [3, 4]], "sr": 16000}}, RATE)["sr"].shape == ()
    rows = [{"x": [1, 2], "sr": 8000}, {"x": [3, 4], "sr": 8000}]
    assert loads({"instances": rows}, RATE)["sr"].item() == 8000
    rows[1]["sr"] = 16000
    with pytest.raises(RequestError, match="input sr: expected one value that all rows share"):
        loads({"instances": rows}, RATE)


def test_an_input_without_dtype_and_rank_is_taken_as_it_is():
    found = [loads({"inputs": value}, ANY)["x"] for value in ([[1.5]], [[1]], [True], ["a"], 3)]
    assert [array.dtype.name for array in found] == ["float32", "int64", "bool", "object", "int64"]
    assert [array.shape for array in found] == [(1, 1), (1, 1), (1,), (1,), ()]


def test_text_and_base64_are_read_for_text_and_binary_inputs():
    assert loads({"instances": ["é", {"b64": "YWI="}]}, WORDS)["x"].tolist() == ["é", "ab"]
    assert loads({"inputs": ["é", {"b64": "/wA="}]}, BLOBS)["x"].tolist() == ["é".encode(), b"\xff\0"]
    one = loads({"inputs": {"b64": "/wA="}}, BLOBS)
    assert one["x"].tolist() == [b"\xff\0"]
    assert not one.has_batch_axis


def test_a_value_of_64_bits_keeps_every_bit():
    signature = Signature((TensorSpec("x", "int64", (-1,)),), OUT)
    assert loads([2**63 - 1, -(2**63)], signature)["x"].tolist() == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("body", "signature", "message"),
    [
        ([[1, 2, 3]], X, "input x: expected float32 [-1, 2], got [1, 3]"),
        ([[[1, 2]]], X, "input x: expected float32 [-1, 2], got [1, 1, 2]"),
        (1, X, "input x: expected float32 [-1, 2], got []"),
        ([], X, "input x: expected float32 [-1, 2], got [0]"),
        ([["1", "2"]], X, "input x: expected float32 [-1, 2], got text"),
        ([[1, "2"]], X, "input x: expected float32 [-1, 2], got text"),
        ([[1, None]], X, "input x: expected float32 [-1, 2], got null"),
        ([[1, {"a": 1}]], X, "input x: expected float32 [-1, 2], got an object"),
        ([[True, False]], X, "input x: expected float32 [-1, 2], got true or false"),
        (
            [[1, 2], [3]],
            X,
            "input x: expected float32 [-1, 2], got lists of different lengths, or nested too deeply",
        ),
        ([[1, 1e39]], X, "input x: expected float32 [-1, 2], got a number that is out of range"),
        ("[[1, 1e400]]", X, "input x: expected float32 [-1, 2], got a number that is out of range"),
        ([[1, 2**70]], INTS, "input x: expected int8 [-1, 2], got a number that is out of range"),
        ([[1, 128]], INTS, "input x: expected int8 [-1, 2], got 128, which is out of range"),
        ([[1, 2.0]], INTS, "input x: expected int8 [-1, 2], got numbers with a fraction"),
        ([1, 2], WORDS, "input x: expected str [-1], got elements that are no strings"),
        (["a", ["b"]], WORDS, "input x: expected str [-1], got lists of different lengths"),
        ([{"b64": "*"}], BLOBS, 'input x: expected bytes [-1], got an object that is no {"b64": "…"}'),
        ([{"b64": "/w=="}], WORDS, "input x: expected str [-1], got text that is not UTF-8"),
        ({"inputs": {"y": [1]}}, X, "input y: unknown; the inputs are x: float32 [-1, 2]"),
        ({"inputs": {"a": [[1, 2]]}}, TWO, "input b: missing; expected float32 [-1]"),
        (
            {"inputs": {"a": [[1, 2]], "b": [1, 2]}},
            TWO,
            "input b: expected 1 rows, as many as input a has, got 2",
        ),
        ({"inputs": {"a": [[1, 2]], "b": 1}}, TWO, "input a has a batch axis, input b has none"),
        (
            {"inputs": [1]},
            TWO,
            "expected an object with the inputs a: int64 [-1, 2], b: float32 [-1], got an array",
        ),
        ({"instances": []}, X, '"instances": expected a list of one row or more'),
        (
            {"instances": [{"x": [1, 2]}, [1, 2]]},
            X,
            '"instances": row 1 does not have the inputs of row 0: x',
        ),
        ({"instances": [{"x": [[1, 2]]}]}, X, "input x: expected float32 [-1, 2], got [1, 1, 2]"),
        ({"instances": [1, 2]}, X, "input x: expected float32 [-1, 2], got [2]"),
        (
            {"input": []},
            X,
            'expected an array, {"inputs": …} or {"instances": […]}, got an object with input',
        ),
        (
            {"inputs": [], "k": 1},
            X,
            'expected an array, {"inputs": …} or {"instances": […]}, got an object with inputs, k',
        ),
        ("  ", X, "the body is empty; expected x: float32 [-1, 2]"),
        ("[[1, NaN]]", X, "the body is no JSON: NaN is no JSON"),
        ("[[1, 2]", X, "the body is no JSON: Expecting ',' delimiter: line 1 column 8 (char 7)"),
        (b"[\xff]", X, "the body is no JSON: byte 1 is not UTF-8"),
        ("[" * 100_000, X, "the body is no JSON: nested too deeply"),
        (
            "[" * 70 + "]" * 70,
            X,
            "input x: expected float32 [-1, 2], got lists of different lengths, or nested too deeply",
        ),
    ],
)
def test_wrong_input_is_named_with_what_was_expected(body, signature, message):
    with pytest.raises(RequestError) as error:
        loads(body, signature)
    assert error.value.message == message
    assert error.value.status == 400


def test_a_long_text_among_many_numbers_does_not_take_their_product_in_memory():
    body = json.dumps([["x" * 1_000_000, *range(200_000)]])  # as an array of text: 800 GB
    with pytest.raises(RequestError, match="got text"):
        loads(body)


def test_a_signature_with_a_fixed_first_axis_takes_that_many_rows():
    state = Signature((TensorSpec("x", "float32", (-1, 1)), TensorSpec("s", "float32", (2, -1))), OUT)
    one = loads({"inputs": {"x": [5], "s": [[1], [2]]}}, state)
    assert one["x"].shape == (1, 1)
    assert one["s"].shape == (2, 1)
    with pytest.raises(RequestError, match=r"input s: expected float32 \[2, -1\], got \[3, 1\]"):
        loads({"inputs": {"x": [5], "s": [[1], [2], [3]]}}, state)


# --- answers --------------------------------------------------------------------------------------


def dumps(outputs, **form):
    return json.loads(json_tensors.dumps(RequestTensors(outputs, **form)))["predictions"]


Y = np.array([[1.5, 2.0]], np.float32)
Z = np.array([7], np.int64)


def test_one_output_is_its_list_and_several_are_an_object():
    assert dumps({"y": Y}) == [[1.5, 2.0]]
    assert dumps({"y": Y, "z": Z}) == {"y": [[1.5, 2.0]], "z": [7]}


def test_rows_are_answered_with_rows():
    assert dumps({"y": Y, "z": Z}, is_rows=True) == [{"y": [1.5, 2.0], "z": 7}]
    assert dumps({"y": Y}, is_rows=True) == [[1.5, 2.0]]
    assert dumps({"y": Y, "z": np.array(7)}, is_rows=True) == {"y": [[1.5, 2.0]], "z": 7}


def test_a_row_without_batch_axis_is_answered_without_it():
    assert dumps({"y": Y, "z": Z}, has_batch_axis=False) == {"y": [1.5, 2.0], "z": 7}
    assert dumps({"w": np.array(["a"], object)}, has_batch_axis=False) == "a"


def test_what_is_no_number_becomes_null():
    array = np.array([[np.nan, np.inf, 1.0], [-np.inf, 2.0, 3.0]], np.float32)
    assert dumps({"y": array, "z": Z}) == {"y": [[None, None, 1.0], [None, 2.0, 3.0]], "z": [7]}


def test_bytes_are_text_where_they_are_utf8_and_base64_elsewhere():
    array = np.array(["é".encode(), b"\xff"], object)
    assert dumps({"y": array}) == ["é", {"b64": "/w=="}]
    assert dumps({"y_bytes": array}) == [{"b64": "w6k="}, {"b64": "/w=="}]


def test_a_lone_surrogate_of_a_model_does_not_break_the_answer():
    assert dumps({"y": np.array(["a\ud800"], object)}) == ["a?"]


def test_complex_numbers_are_406():
    with pytest.raises(RequestError, match="output y: complex64 cannot be written as JSON") as error:
        json_tensors.dumps({"y": np.ones(1, np.complex64)})
    assert error.value.status == 406

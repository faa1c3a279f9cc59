"""Datatypes of the Open Inference Protocol: raw bytes, JSON values, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from frame.contract.requests import RequestError
from frame.worker.codecs.datatypes import (
    NUMPY_DTYPES,
    datatype_of,
    from_json,
    from_raw,
    to_json,
    to_raw,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

NUMBERS = [name for name in NUMPY_DTYPES if name not in {"BYTES", "BF16"}]


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_numbers_are_the_same_after_raw_bytes_and_back(datatype: str, data: st.DataObject) -> None:
    dtype = np.dtype(NUMPY_DTYPES[datatype])
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
    raw = to_raw(array)
    assert raw == array.astype(dtype.newbyteorder("<")).tobytes()
    again = from_raw("x", datatype_of(dtype.name), array.shape, raw)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_numbers_are_the_same_after_json_and_back_flat_or_nested(datatype: str, data: st.DataObject) -> None:
    dtype = np.dtype(NUMPY_DTYPES[datatype])
    finite = (
        st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
        if dtype.kind == "f"
        else arrays.from_dtype(dtype)
    )
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3))
    array = data.draw(arrays.arrays(dtype, shape, elements=finite))
    for given_as in (to_json(array), array.tolist()):
        again = from_json("x", datatype, shape, given_as)
        assert again.dtype == dtype
        np.testing.assert_array_equal(again, array)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_are_the_same_after_raw_bytes_and_back(elements: list[bytes]) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    raw = to_raw(array)
    assert raw == b"".join(struct.pack("<I", len(item)) + item for item in elements)
    assert from_raw("x", "BYTES", (len(elements),), raw).tolist() == elements


def test_text_is_utf8_in_both_forms() -> None:
    text = np.array([["ä", "日本"]], object)
    assert to_json(text) == ["ä", "日本"]
    assert from_raw("x", "BYTES", (1, 2), to_raw(text)).tolist() == [["ä".encode(), "日本".encode()]]
    assert from_json("x", "BYTES", (1, 2), [["ä", "日本"]]).tolist() == [["ä".encode(), "日本".encode()]]


def test_bf16_is_float32_of_the_same_value() -> None:
    wanted = np.array([1.0, -2.5, 3.140625, np.inf], "float32")
    raw = (wanted.view("uint32") >> 16).astype("<u2").tobytes()
    read = from_raw("x", "BF16", (4,), raw)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, wanted)


def test_any_byte_but_zero_is_true() -> None:
    assert from_raw("x", "BOOL", (3,), b"\x00\x01\x02").tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", (2,), b"\0" * 7, r"input x: expected 8 bytes for FP32 \[2\], got 7"),
        ("BYTES", (1,), b"\1\0\0", "expected 1 elements of BYTES, got 0"),
        ("BYTES", (1,), b"\5\0\0\0abc", "element 0 of BYTES is longer"),
        ("BYTES", (1,), b"\1\0\0\0ab", "1 bytes after the last of 1 elements"),
        ("FP8", (1,), b"\0", "unknown datatype FP8; known are BOOL"),
    ],
)
def test_raw_bytes_that_are_no_tensor_say_why(
    datatype: str, shape: tuple[int, ...], data: bytes, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        from_raw("x", datatype, shape, data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("INT8", (1,), [128], "out of the range of INT8"),
        ("UINT64", (1,), [-1], "out of the range of UINT64"),
        ("FP16", (1,), [70000.0], "out of the range of FP16"),
        ("FP64", (1,), [10**400], "out of the range of FP64"),
        ("INT32", (1,), [1.5], "expected elements of INT32, got float"),
        ("INT32", (1,), [True], "expected elements of INT32, got bool"),
        ("BOOL", (1,), [1], "expected elements of BOOL, got int"),
        ("FP32", (2,), [1, None], "expected elements of FP32, got null"),
        ("FP32", (1,), ["1"], "expected elements of FP32, got text"),
        ("BYTES", (2,), ["a", 1], "expected elements of BYTES, got int"),
        ("FP32", (2, 2), [1, 2, 3], r"expected 4 elements for \[2, 2\], got 3"),
        ("FP32", (2, 2), [[1, 2, 3], [4]], "not nested as the shape"),
        ("FP32", (2, 2), [[1, 2]], "not nested as the shape"),
        ("FP32", (4,), [[1, 2, 3, 4]], "not nested as the shape"),
        ("FP32", (1, 1), [[[1]]], "expected elements of FP32, got lists"),
        ("FP32", (), [[1]], "not nested as the shape"),
        ("FP32", (1,), 1, "expected a list, got int"),
    ],
)
def test_json_that_is_no_tensor_says_why(datatype: str, shape: tuple[int, ...], data: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        from_json("x", datatype, shape, data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "array", [np.array([np.nan]), np.array([np.inf], "float32"), np.array([b"\xff"], object)]
)
def test_what_json_cannot_hold_says_what_to_ask_for(array: Any) -> None:
    with pytest.raises(RequestError, match="ask for binary data") as caught:
        to_json(array)
    assert caught.value.status == 406


def test_a_dtype_without_a_datatype_is_refused() -> None:
    with pytest.raises(RequestError, match="no datatype for complex64"):
        datatype_of("complex64")

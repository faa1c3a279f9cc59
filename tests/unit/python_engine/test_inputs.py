"""The methods of `Input`: properties in any case, entries by key, helpers by format."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from djl_python import Input, Output, PairList
from djl_python.np_util import from_nd_list, to_nd_list, to_npz
from frame.api import RequestError
from PIL import Image


def made(content_type: str | None = None, **entries: bytes) -> Input:
    inputs = Input()
    if content_type:
        inputs.properties["Content-Type"] = content_type
    for key, value in entries.items():
        inputs.content.add(key, bytearray(value))
    return inputs


def test_properties_are_found_in_any_case():
    inputs = made("text/plain")
    properties = inputs.get_properties()
    assert inputs.get_property("content-type") == "text/plain"
    assert properties["CONTENT-TYPE"] == properties.get("content-Type") == "text/plain"
    assert "content-TYPE" in properties
    assert list(properties) == ["Content-Type"]
    assert inputs.get_property("absent") is None
    assert properties.get("absent", "d") == "d"
    with pytest.raises(KeyError):
        properties["absent"]


def test_bytes_without_a_key_are_data_else_the_first_entry():
    assert made(a=b"1", data=b"2").get_as_bytes() == b"2"
    assert made(a=b"1", b=b"2").get_as_bytes() == b"1"
    assert made(a=b"1", b=b"2").get_as_bytes("b") == b"2"
    assert made(data=b"").get_as_bytes() == b""
    assert made().get_as_bytes() is None
    with pytest.raises(KeyError, match="requested data for key: c is not found!"):
        made(a=b"1").get_as_bytes("c")


def test_text_and_json_are_decoded():
    inputs = made(data='{"é": 1}'.encode())
    assert inputs.get_as_string() == '{"é": 1}'
    assert inputs.get_as_json() == {"é": 1}
    with pytest.raises(ValueError, match="no content"):
        made().get_as_string()


def test_csv_rows_are_dicts():
    assert made(data=b"a,b\n1,2\n3,4\n").get_as_csv() == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_images_are_opened():
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, "PNG")
    assert made(data=stream.getvalue()).get_as_image().size == (3, 2)
    assert made("image/png", data=stream.getvalue()).get_data().size == (3, 2)


ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7], dtype=np.int64)]


@pytest.mark.parametrize("encode", [to_nd_list, to_npz])
def test_arrays_come_back_as_they_went(encode):
    inputs = made(data=bytes(encode(ARRAYS)))
    for found, expected in zip(inputs.get_as_numpy(), ARRAYS, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_ndlist_has_djls_layout():
    blob = bytes(to_nd_list(np.array([1.0], dtype=np.float32)))
    assert blob[:4] == b"\0\0\0\1"
    assert blob[4:10] == b"\0\4NDAR"
    assert blob[-9:] == b"<" + b"\0\0\0\4" + np.float32(1).tobytes()


def test_big_endian_arrays_keep_their_values():
    [array] = from_nd_list(bytes(to_nd_list(np.array([1, 2], dtype=">i4"))))
    assert array.tolist() == [1, 2]


def test_npz_keeps_pickles_out():
    stream = io.BytesIO()
    np.savez(stream, a=np.array([object()], dtype=object))
    with pytest.raises(RequestError) as caught:
        made(data=stream.getvalue()).get_as_npz()
    assert caught.value.status == 400


def test_arrays_may_be_changed_in_place():
    for encode in (to_nd_list, to_npz):
        [array] = made(data=bytes(encode(ARRAYS[0]))).get_as_numpy()
        array += 1
        assert array.flags.aligned


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1", b"PK\3\4 no archive"])
def test_malformed_arrays_are_the_clients_fault(data):
    with pytest.raises(RequestError) as caught:
        made(data=data).get_as_numpy()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("content_type", "data", "expected"),
    [
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("text/csv", b"a", "a"),
        ("application/octet-stream", b"a", b"a"),
        (None, b"a", b"a"),
    ],
)
def test_data_is_decoded_by_its_content_type(content_type, data, expected):
    assert made(content_type, data=data).get_data() == expected


@pytest.mark.parametrize(("content_type", "encode"), [("tensor/ndlist", to_nd_list), ("tensor/npz", to_npz)])
def test_tensor_data_is_decoded_by_its_content_type(content_type, encode):
    [array] = made(content_type, data=bytes(encode(ARRAYS[1]))).get_data()
    assert array.tolist() == [7]


def test_a_batch_made_by_hand_is_split():
    inputs = made(**{"batch_001.data": b"b", "batch_000.data": b"a", "batch_9.data": b"stray", "other": b"x"})
    inputs.properties.update({"batch_size": "2", "batch_001.k": "v", "batch_unrelated": "x"})
    first, second = inputs.get_batches()
    assert (first.get_as_bytes(), second.get_as_bytes(), second.get_property("K")) == (b"a", b"b", "v")
    assert first.get_content().size() == second.get_content().size() == 1


def test_pair_lists_keep_order_and_repeated_keys():
    pairs = PairList(pair_list=[("a", 1), ("b", 0), ("a", 2)])
    pairs.add("first", b"", index=0)
    assert pairs.get_keys() == ["first", "a", "b", "a"]
    assert pairs.get_values() == [b"", 1, 0, 2]
    assert (pairs.get("a"), pairs.get("absent"), pairs.contains("b"), pairs.size()) == (1, None, True, 4)
    pairs.add_all(PairList(pair_map={"z": 9}))
    assert (pairs.key_at(4), pairs.value_at(4), pairs.is_empty()) == ("z", 9, False)
    with pytest.raises(ValueError, match="size mismatch"):
        PairList(["a"], [])


def test_numpy_values_become_json():
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": np.int64(3), "d": np.bool_(True)}
    output = Output().add(value)
    assert json.loads(output.content.value_at(0)) == {"a": 0.5, "b": [0, 1], "c": 3, "d": True}


def test_arrays_are_added_in_both_formats():
    output = Output().add_as_numpy(ARRAYS).add_as_npz(ARRAYS[0], key="z", batch_index=3)
    assert output.content.get_keys() == [None, "batch_3.z"]
    assert [array.shape for array in from_nd_list(output.content.value_at(0))] == [(2, 3), (1,)]
    assert from_nd_list(output.content.value_at(1))[0].tolist() == ARRAYS[0].tolist()

"""Hints from the first bytes of a body: the keys and costs themselves, and what is not looked at."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from frame.api import Signature, TensorSpec
from frame.wire.padding import Padding
from frame.wire.peek import MAX_BYTES, default_hint, peek
from frame.worker.codecs import ndlist, npz, safetensors

IDS, MASK = TensorSpec("ids", "int64", (-1, -1)), TensorSpec("mask", "int64", (-1, -1))
ONE, TWO = Signature((IDS,), ()), Signature((IDS, MASK), ())
JSON = "application/json"


def look(body, kind=JSON, signature=ONE, padding=None, codec="", size=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return tuple(peek(data[:MAX_BYTES], size or len(data), kind, codec, signature, padding))


def is_default(body, kind=JSON, signature=ONE, padding=None, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return look(body, kind, signature, padding, **more) == tuple(
        default_hint(kind, more.get("size") or len(data))
    )


# --- keys and costs ---------------------------------------------------------------------------------


def test_the_key_is_the_trailing_shape_whatever_the_format():
    array = np.ones((2, 3), np.int64)
    bodies = [
        ({"inputs": array.tolist()}, JSON),
        ({"instances": array.tolist()}, "application/json; charset=utf-8"),
        (ndlist.dumps([("ids", array)]), "tensor/ndlist"),
        (npz.dumps([("ids", array)]), ""),
        (safetensors.dumps([("ids", array)]), "tensor/safetensors"),
    ]
    assert {look(*body) for body in bodies} == {(b"[3]", 6)}


@pytest.mark.parametrize(
    ("padding", "key", "cost"),
    [
        (None, b"[3] [3]", 6),
        (Padding(), b"[*] [*]", 6),
        (Padding(multiple=8), b"[8] [8]", 16),
        (Padding(lengths=(2, 5)), b"[5] [5]", 10),
        (Padding(mask="mask"), b"[*] ", 6),
    ],
)
def test_padded_axes_count_as_long_as_they_get(padding, key, cost):
    rows = [[1, 2, 3], [4, 5, 6]]
    assert look({"inputs": {"ids": rows, "mask": rows}}, signature=TWO, padding=padding) == (key, cost)


def test_a_request_without_the_mask_runs_with_those_that_have_it():
    padding, array = Padding(mask="mask"), np.ones((1, 3), np.int64)
    bodies = [
        ({"inputs": {"ids": [[1, 2, 3]]}}, JSON),
        ([[1, 2, 3]], JSON),
        ({"inputs": {"mask": [[1, 1, 1]], "ids": [[1, 2, 3]]}}, JSON),
        (ndlist.dumps([(None, array)]), "tensor/ndlist"),
        (ndlist.dumps([(None, array), (None, array)]), "tensor/ndlist"),
    ]
    assert {look(*body, TWO, padding) for body in bodies} == {(b"[*] ", 3)}


def test_the_dtype_counts_only_where_the_signature_leaves_it_open():
    open_dtype = Signature((TensorSpec("x", "", (-1, -1)),), ())
    values = ([[1]], [[0.5]], [[1e9]], [[True]], [["a"]], [[[]]])
    keys = [look(value, signature=open_dtype)[0] for value in values]
    assert keys == [b"i8[1]", b"f4[1]", b"f4[1]", b"b1[1]", b"O[1]", JSON.encode()]
    texts = npz.dumps([("x", np.array([["ab"]]))])
    assert look(texts, "tensor/npz", open_dtype)[0] == b"O[1]"
    assert look([[1]])[0] == look([[0.5]])[0] == b"[1]"


def test_a_row_without_its_batch_axis_runs_with_those_that_have_it():
    assert look([1, 2]) == look([[1, 2]]) == (b"[2]", 2)


def test_scalars_and_unknown_ranks():
    signature = Signature((TensorSpec("x", "int64", None), TensorSpec("rate", "int64", ())), ())
    assert look({"inputs": {"x": [[1, 2]], "rate": 5}}, signature=signature) == (b"[2] ", 2)
    rows = {"instances": [{"x": [1, 2], "rate": 5}, {"x": [1, 2], "rate": 5}]}
    assert look(rows, signature=signature) == (b"[2] ", 4)


def test_strings_may_hold_what_looks_like_json():
    signature = Signature((TensorSpec("x", "str", (-1, -1)), TensorSpec("z", "str", (-1,))), ())
    body = {"inputs": {"x": [['"],["', "\\", '{":'], ["a", "b", '\\"']], "z": ["]]", "}"]}}
    assert look(body, signature=signature) == (b"[3] []", 6)


def test_binary_strings_count_as_one_element():
    signature = Signature((TensorSpec("x", "bytes", (-1, -1)),), ())
    assert look({"inputs": [[{"b64": "YQ=="}, "b"]]}, signature=signature) == (b"[2]", 2)
    named = Signature((TensorSpec("b64", "str", (-1,)),), ())
    assert look({"inputs": {"b64": ["x"]}}, signature=named) == (b"[]", 1)


def test_forms_that_hold_json_are_read_as_json():
    kind = "application/x-www-form-urlencoded"
    assert look([[1, 2]], kind) == (b"[2]", 2)
    assert is_default(b"ids=1", kind)


def test_rows_that_are_no_lists_of_lists():
    flat = Signature((TensorSpec("x", "int64", (-1,)),), ())
    assert look({"instances": [1, 2]}, signature=flat) == (b"[]", 2)


def test_numpys_own_archives_are_read_compressed_or_not():
    for save in (np.savez, np.savez_compressed):
        named, listed = io.BytesIO(), io.BytesIO()
        save(named, ids=np.ones((1, 4), "<i8"))
        save(listed, np.ones((1, 4), ">i4"))
        assert look(named.getvalue(), "tensor/npz") == look(listed.getvalue(), "tensor/ndlist") == (b"[4]", 4)


def test_a_large_binary_body_is_known_by_its_head():
    array = np.ones((2, 50_000), np.int64)
    for body, kind in (
        (ndlist.dumps([("ids", array)]), "tensor/ndlist"),
        (npz.dumps([("ids", array)]), "tensor/npz"),
        (safetensors.dumps([("ids", array)]), "tensor/safetensors"),
    ):
        assert look(body, kind) == (b"[50000]", 100_000)


# --- what is not looked at, or cannot be read -----------------------------------------------------------


def test_the_default_key_is_the_media_type_without_a_forms_boundary():
    assert default_hint("Multipart/Form-Data; boundary=x7", 0) == (b"multipart/form-data", 1)
    assert default_hint("", 12) == (b"", 12)


def test_other_protocols_and_types_are_not_looked_at():
    assert look([[1]], codec="acme.codec") == (JSON.encode(), 5)
    assert is_default(b"\xff\xd8\xff", "image/jpeg")
    assert is_default(b"\xff\xd8\xff", "")


def test_json_that_is_longer_than_what_is_looked_at_is_not_read():
    assert is_default([[1, 2]], size=MAX_BYTES + 1)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"', b'"', b"[", b"[[", b"]", b"[1,[2]]", b"[[1],[2,3]]", b"[[1,2],[3]]", b"[[[1]],[2]]",
        b"[[1]]]", b"[[[1,2]],[[3,4]],[5,6]]", b"[" * 40 + b"]" * 40, b"[]", b"[[],[]]", b'{"x":[[1]]}',
        b'{"inputs":[[1]]', b'{"inputs":{"ids":[[1]]', b'{"inputs":{}}', b'{"inputs":{"ids":{"a":[1]}}}',
        b'{"inputs":{"ids":[[1]],"more":[[1]]}}', b'{"inputs":{"other":[[1]]}}', b"[[[1],[2]],[[3]]]",
        b'{"inputs":[[1]],"ids":[[1]]}',
        b'{"inputs":{[[1]]}}', b'{"inputs":{"ids":[[1]],"ids":[[1]]}}', b'{"inputs":{"\xff":[[1]]}}',
        b'{"instances":5}', b'{"instances":[]}', b'{"instances":[{"ids":[1]},{"ids":[1,2]}]}',
        b'{"instances":[{"ids":[1]},{"ids":[1],"x":[1]}]}', b'{"instances":[{"ids":[1]}', b'{"instances":[{',
        b"[[[1]]]", b"5", b"[" + b'["a"],' * 5000 + b'["a"]]',
    ],
)  # fmt: skip
def test_json_that_the_worker_would_refuse_gets_the_default(body):
    assert is_default(body)


def test_lengths_and_rows_that_the_worker_would_refuse_get_the_default():
    assert is_default([[1, 2, 3]], padding=Padding(lengths=(2,)))
    assert is_default({"inputs": {"ids": [[1]], "mask": [[1], [1]]}}, signature=TWO)
    assert is_default({"inputs": 5}, signature=Signature((TensorSpec("s", "int64", ()),), ()))
    fixed = Signature((TensorSpec("x", "int64", (4, -1)),), ())
    assert is_default([[1, 2]], signature=fixed)
    assert is_default({"instances": [1, 2]})


NDLIST = ndlist.dumps([("ids", np.ones((1, 2), np.int64))])


def changed(body, at, value):
    return body[:at] + value + body[at + len(value) :]


RANK = NDLIST.index(b"INT64") + 5
LAYOUT = RANK + 4 + 16


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">i", 0), struct.pack(">i", -1), struct.pack(">i", 2**30) + NDLIST[4:],
        struct.pack(">i", 2) + NDLIST[4:], NDLIST + b"x", NDLIST[:19], NDLIST[:23], NDLIST[:30],
        NDLIST.replace(b"NDAR", b"NDAX"), NDLIST.replace(b"default", b"sparsed"),
        NDLIST.replace(b"INT64", b"INT65"), changed(NDLIST, RANK, struct.pack(">i", 99)),
        changed(NDLIST, RANK, struct.pack(">i", -1)), changed(NDLIST, LAYOUT, struct.pack(">i", -3)),
        changed(NDLIST, RANK + 4, struct.pack(">q", -1)), changed(NDLIST, RANK + 4, struct.pack(">q", 2**50)),
        changed(NDLIST, LAYOUT + 9, struct.pack(">i", -5)),
    ],
)  # fmt: skip
def test_malformed_ndlists_get_the_default(body):
    assert is_default(body, "tensor/ndlist")


def test_an_ndlist_of_many_large_arrays_cannot_be_known_by_its_head():
    large = np.ones((1, MAX_BYTES), np.int64)
    assert is_default(ndlist.dumps([("ids", large), ("mask", large)]), "tensor/ndlist", TWO)


def archive(header, *, flags=0, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        opened.writestr("ids.npy", header)
    body = file.getvalue()
    return changed(body, 6, struct.pack("<H", flags)) if flags else body


PREFIX = b"\x93NUMPY\x01\x00"
HEADER = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }\n"


def npy(header, size=None):
    return PREFIX + struct.pack("<H", len(header) if size is None else size) + header + bytes(16)


def test_headers_of_npy_files():
    assert look(archive(npy(HEADER)), "tensor/npz") == (b"[2]", 2)
    fortran = HEADER.replace(b"False", b"True")
    assert look(archive(npy(fortran)), "tensor/npz") == (b"[2]", 2)


@pytest.mark.parametrize(
    "body",
    [
        b"PK", b"PK\x03\x04", archive(b"no numpy"), archive(npy(HEADER, size=9)),
        archive(npy(HEADER, size=999)),
        archive(npy(HEADER.replace(b"(1, 2)", b"(-1, 2)"))), archive(npy(HEADER.replace(b"<i8", b"|O"))),
        archive(npy(HEADER), flags=1), archive(npy(HEADER), flags=8), archive(npy(HEADER))[:40],
        archive(npy(HEADER), compression=zipfile.ZIP_BZIP2),
        changed(archive(npy(HEADER)), 18, b"\xff\xff\xff\xff"),
        changed(archive(npy(HEADER), compression=zipfile.ZIP_DEFLATED), 37, b"\xff\xff\xff\xff"),
    ],
)  # fmt: skip
def test_malformed_archives_get_the_default(body):
    assert is_default(body, "tensor/npz")


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{", b'{"ids":5}', b'{"ids":{"dtype":"I64"}}', b'{"ids":{"dtype":"I65","shape":[1,2]}}',
        b'{"ids":{"dtype":"I64","shape":5}}', b'{"ids":{"dtype":"I64","shape":[1,true]}}',
        b'{"ids":{"dtype":"I64","shape":[1,-2]}}', b"[" * 5000,
    ],
)  # fmt: skip
def test_malformed_safetensors_get_the_default(header):
    assert is_default(len(header).to_bytes(8, "little") + header, "tensor/safetensors")
    assert is_default((2**40).to_bytes(8, "little") + header, "tensor/safetensors")


def test_metadata_of_safetensors_are_no_input():
    header = b'{"__metadata__":{"format":"pt"},"ids":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]}}'
    body = len(header).to_bytes(8, "little") + header + bytes(16)
    assert look(body, "tensor/safetensors") == (b"[2]", 2)


# --- the rule of lengths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "lengths"),
    [
        (Padding(), {0: 0, 1: 1, 9: 9}),
        (Padding(multiple=8), {0: 0, 1: 8, 8: 8, 9: 16}),
        (Padding(lengths=(4, 8)), {0: 4, 4: 4, 5: 8, 8: 8, 9: None}),
    ],
)
def test_lengths_that_a_request_alone_is_padded_to(padding, lengths):
    assert {own: padding.length_of(own) for own in lengths} == lengths


def test_padding_goes_through_json_unchanged():
    padding = Padding(multiple=2, lengths=(1, 2), values={"x": -1.0}, mask="m")
    assert Padding.from_json(json.loads(json.dumps(padding.to_json()))) == padding

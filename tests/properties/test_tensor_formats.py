"""Arrays that are written are read back; bytes of any kind are read, or refused with a 400."""

from __future__ import annotations

import io

import numpy as np
import pytest
from frame.api import Part, RequestError
from frame.worker.codecs import multipart, ndlist, npz, safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64")
_PLAIN = (*_NUMBERS, "uint8", "uint16", "uint32", "uint64", "bool")
_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\x00"), min_size=1, max_size=20)


def arrays(dtypes: tuple[str, ...]) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


def read_or_refuse(read, *arguments):
    """Return what was read, or None when it was refused as it should be; anything else fails the test."""
    try:
        return read(*arguments)
    except RequestError as error:
        if error.status == 400:
            return None
        raise


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(st.lists(st.tuples(st.none() | _NAMES, arrays((*_PLAIN, "complex64"))), max_size=4))
def test_an_ndlist_is_read_as_it_was_written(tensors):
    found = ndlist.loads(ndlist.dumps(tensors))
    assert [name for name, _ in found] == [name for name, _ in tensors]
    assert all(same(left, right) for (_, left), (_, right) in zip(found, tensors, strict=True))


@given(st.lists(st.tuples(_NAMES, arrays(_PLAIN)), max_size=4, unique_by=lambda pair: pair[0]))
def test_safetensors_are_read_as_they_were_written(tensors):
    found = safetensors.loads(safetensors.dumps(tensors))
    assert [name for name, _ in found] == [name for name, _ in tensors]
    assert all(same(left, right) for (_, left), (_, right) in zip(found, tensors, strict=True))


@given(
    st.lists(
        st.tuples(_NAMES, arrays(_PLAIN)), max_size=4, unique_by=lambda pair: pair[0].removesuffix(".npy")
    )
)
def test_an_npz_is_read_as_it_was_written_and_numpy_reads_it_too(tensors):
    data = npz.dumps(tensors)
    found = npz.loads(data)
    assert all(same(left, right) for (_, left), (_, right) in zip(found, tensors, strict=True))
    with np.load(io.BytesIO(data), allow_pickle=False) as theirs:
        assert all(same(theirs[f"{name}.npy"], array) for name, array in tensors)


@given(arrays(("float32", "int64", "bool")), st.data())
def test_a_cut_or_changed_body_is_refused_or_read_but_never_breaks(array, data):
    for codec, body in (
        (ndlist, ndlist.dumps([("x", array)])),
        (safetensors, safetensors.dumps([("x", array)])),
        (npz, npz.dumps([("x", array)])),
    ):
        cut = data.draw(st.integers(0, len(body) - 1))
        with pytest.raises(RequestError) as cut_error:
            codec.loads(body[:cut])
        assert cut_error.value.status == 400
        changed = bytearray(body)
        changed[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        read_or_refuse(codec.loads, bytes(changed))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_arrays_or_a_clean_400_in_every_format(body):
    for codec in (ndlist, safetensors, npz):
        assert not read_or_refuse(codec.loads, body)  # nothing but an empty list is that short by chance


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9 ._\[\]-]{0,15}", fullmatch=True), st.binary(max_size=60)),
        max_size=8,
    )
)
@settings(max_examples=60)
def test_multipart_fields_are_read_as_they_were_written(fields):
    boundary = b"-----------------------735323031399963166993862150"
    pieces = []
    for name, value in fields:
        head = f'Content-Disposition: form-data; filename="a;name=b.bin"; name="{name}"\r\nContent-Type: x/y'
        pieces += [b"--", boundary, b"\r\n", head.encode(), b"\r\n\r\n", value, b"\r\n"]
    body = b"".join([*pieces, b"--", boundary, b"--\r\n"])
    found = multipart.split_form(body, f"multipart/form-data; boundary={boundary.decode()}")
    if any(boundary in value for _, value in fields):
        return
    assert [Part(part.key, bytes(part.data)) for part in found] == [
        Part(name, value) for name, value in fields
    ]


@given(
    st.binary(max_size=300),
    st.sampled_from(["multipart/form-data; boundary=b", "application/x-www-form-urlencoded"]),
)
def test_arbitrary_form_bodies_give_parts_or_a_clean_400(body, content_type):
    read_or_refuse(multipart.split_form, b"--b\r\n" + body, content_type)

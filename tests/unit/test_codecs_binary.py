"""ndlist, npz and safetensors: the layout that others write, and the bytes that nobody should."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from frame.api import RequestError
from frame.worker.codecs import ndlist, npz, safetensors


def record(
    *,
    magic=b"NDAR",
    version=3,
    name=b"\0",
    storage=b"default",
    dtype=b"FLOAT32",
    shape=(2,),
    order=b"<",
    data=b"\0" * 8,
    length=None,
):
    def string(value):
        return struct.pack(">h", len(value)) + value

    return b"".join(
        (
            *(string(magic), struct.pack(">i", version), name, string(storage), string(dtype)),
            *(
                struct.pack(f">i{len(shape)}q", len(shape), *shape),
                struct.pack(">i", len(shape)),
                b"\0?" * len(shape),
            ),
            *(order, struct.pack(">i", len(data) if length is None else length), data),
        )
    )


def body(*records, count=None):
    return struct.pack(">i", len(records) if count is None else count) + b"".join(records)


def test_the_layout_is_djls_byte_by_byte():
    expected = body(record(name=b"\1\0\x01x", data=np.array([1, 2], "<f4").tobytes()))
    assert ndlist.dumps([("x", np.array([1, 2], np.float32))]) == expected


def test_a_record_of_java_is_read_big_endian_and_with_its_name_for_bool():
    data = np.array([1, 2], ">f4").tobytes()
    (_, floats), (_, flags) = ndlist.loads(
        body(record(order=b">", data=data), record(dtype=b"BOOLEAN", data=b"\1\0"))
    )
    assert floats.tolist() == [1.0, 2.0]
    assert flags.tolist() == [True, False]
    assert flags.dtype == np.bool_


def test_a_big_endian_array_is_written_with_its_values():
    ((_, array),) = ndlist.loads(ndlist.dumps([(None, np.array([1, 2], ">i4"))]))
    assert array.tolist() == [1, 2]


def test_reading_copies_nothing():
    data = ndlist.dumps([(None, np.arange(4, dtype=np.float32))])
    ((_, array),) = ndlist.loads(data)
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the number of arrays"),
        (body(count=-1), "-1 arrays"),
        (body(record(), count=2**31 - 1), "do not fit"),
        (body(record(magic=b"NDAX")), "does not start with NDAR"),
        (body(record(version=2)), "has version 2"),
        (body(record(storage=b"csr")), "storage type csr"),
        (body(record(dtype=b"STRING")), "dtype STRING"),
        (body(record(dtype=b"OBJECT")), "dtype OBJECT"),
        (body(record(shape=(-2,))), "shape [-2]"),
        (body(record(shape=(2**40,))), "shape [1099511627776]"),
        (body(record(shape=(2**62, 4), data=b"")), "shape [4611686018427387904, 4]"),
        (body(record(shape=(0, 2**62, 2**62), data=b"")), "shape [0"),
        (body(record(shape=(1,) * 33)), "rank 33"),
        (body(record(shape=(3,))), "8 bytes instead of 12"),
        (body(record(shape=(3,), length=12)), "does not fit"),
        (body(record(length=-8)), "-8 bytes"),
        (body(record(order=b"?")), "byte order"),
        (body(record(name=b"\1\0\2\xff\xff")), "not UTF-8"),
        (body(record(name=b"\1\xff\xff")), "does not fit"),
        (body(record()) + b"!", "1 bytes follow"),
    ],
)
def test_a_malformed_ndlist_is_refused_with_the_place(data, words):
    with pytest.raises(RequestError, match="tensor/ndlist") as error:
        ndlist.loads(data)
    assert error.value.status == 400
    assert words in error.value.message


def test_text_cannot_be_written_as_ndlist():
    with pytest.raises(ValueError, match="cannot hold object"):
        ndlist.dumps([(None, np.array(["a"], dtype=object))])


# --- npz ------------------------------------------------------------------------------------------


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array, *, allow_pickle=False):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_numpys_own_archives_are_read():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.asfortranarray([[1, 2], [3, 4]]), words=np.array(["a", "bc"]))
    found = dict(npz.loads(buffer.getvalue()))
    assert found["x"].tolist() == [[1, 2], [3, 4]]
    assert found["words"].tolist() == ["a", "bc"]


def test_positional_arrays_of_savez_have_no_name():
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros(1), np.ones(2))
    assert [name for name, _ in npz.loads(buffer.getvalue())] == [None, None]


def test_an_npz_is_read_as_an_ndlist_too():
    assert ndlist.loads(npz.dumps([("x", np.ones(1))]))[0][0] == "x"


def test_text_is_written_as_text_and_bytes_are_not():
    assert dict(npz.loads(npz.dumps([("x", np.array([["a", "é"]], object))])))["x"].tolist() == [["a", "é"]]
    with pytest.raises(ValueError, match="binary strings"):
        npz.dumps([("x", np.array([b"a"], object))])


def header_claiming(shape):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\3\4 no zip", "not a zip"),
        (zipped([("x.npy", b"nothing")]), "member x is no .npy"),
        (zipped([("x.npy", npy(np.array([{}], object), allow_pickle=True))]), "member x"),
        (zipped([("x.npy", header_claiming("(1000000000000,)"))]), "has 0 bytes"),
        (zipped([("x.npy", header_claiming("(-1,)"))]), "the shape [-1]"),
        (zipped([("x.npy", header_claiming("(0, 99999999999999, 99999999999999)"))]), "the shape"),
        (zipped([("x.npy", header_claiming("__import__('os')"))]), "unreadable header"),
        (zipped([("x.npy", header_claiming("(1,)"))]), "has 0 bytes"),
        (zipped([("x.npy", npy(np.ones(1))), ("x", npy(np.ones(1)))]), "one name"),
        (zipped([("x.npy", npy(np.ones(1)))], zipfile.ZIP_BZIP2), "another method"),
        (zipped([(f"{index}", b"") for index in range(1025)]), "1025 members"),
    ],
)
def test_a_malformed_npz_is_refused_with_the_member(data, words):
    with pytest.raises(RequestError, match="tensor/npz") as error:
        npz.loads(data)
    assert error.value.status == 400
    assert words in error.value.message


def test_a_bomb_is_refused_before_it_is_unpacked():
    data = zipped([("x.npy", npy(np.zeros(80 * 2**20, np.uint8)))])
    assert len(data) < 2**20
    with pytest.raises(RequestError, match="would unpack to"):
        npz.loads(data)


# --- safetensors ----------------------------------------------------------------------------------


def test_hugging_faces_library_reads_and_writes_the_same():
    theirs = pytest.importorskip("safetensors.numpy")
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}
    ours = theirs.load(safetensors.dumps(tensors.items()))
    assert {name: array.tolist() for name, array in ours.items()} == {
        n: a.tolist() for n, a in tensors.items()
    }
    found = dict(safetensors.loads(theirs.save(tensors, metadata={"format": "np"})))
    assert {name: array.tolist() for name, array in found.items()} == {
        n: a.tolist() for n, a in tensors.items()
    }


def safe(header, data=b""):
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\1", "header"),
        (b"\xff" * 8 + b"{}", "does not fit"),
        (safe(b"[]"), "no object"),
        (safe(b"{"), "no JSON"),
        (safe(b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"\0\0"), "no dtype of"),
        (safe(b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"\0" * 4), "no valid shape"),
        (safe(b'{"x":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', b"\0" * 4), "no valid shape"),
        (safe(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}', b"\0" * 4), "cannot be the bytes"),
        (safe(b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"\0" * 4), "cannot be the bytes"),
        (safe(b'{"x":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}'), "cannot be"),
        (safe(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"\0" * 4), "cannot be the bytes"),
    ],
)
def test_malformed_safetensors_are_refused(data, words):
    with pytest.raises(RequestError, match="tensor/safetensors") as error:
        safetensors.loads(data)
    assert words in error.value.message

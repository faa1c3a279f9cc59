"""The codec of DJL's routes: which reader a body gets, and which writer an answer."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from frame.api import Part, Properties, RequestError, Signature, TensorSpec
from frame.worker.codecs import djl, ndlist, npz, safetensors
from frame.worker.codecs.fitting import RequestTensors

X = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("y", "float32", (-1, 2)),))
TWO = Signature((TensorSpec("a", "float32", (-1,)), TensorSpec("b", "str", (-1,))), X.outputs)
ROW = np.array([[1, 2]], np.float32)
MULTIPART = "multipart/form-data; boundary=b"


def decode(body, content_type=None, signature=X):
    properties = Properties({} if content_type is None else {"Content-Type": content_type})
    return djl.decode((Part("q", b"query"), Part("data", body)), properties, signature)


def form(**fields):
    pieces = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields.items()
    ]
    return b"".join(pieces) + b"--b--\r\n"


JSON_BODY = b'{"inputs": [[1, 2]]}'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (JSON_BODY, "application/json"),
        (JSON_BODY, "Application/JSON; charset=utf-8"),
        (JSON_BODY, "application/vnd.x+json"),
        (JSON_BODY, None),
        (JSON_BODY, "application/x-www-form-urlencoded"),
        (ndlist.dumps([("x", ROW)]), "tensor/ndlist"),
        (ndlist.dumps([(None, ROW)]), "application/octet-stream"),
        (ndlist.dumps([(None, ROW[0])]), None),
        (npz.dumps([("x", ROW)]), "tensor/npz"),
        (npz.dumps([("arr_0", ROW)]), None),
        (safetensors.dumps([("x", ROW)]), "tensor/safetensors"),
        (form(x=b"[[1, 2]]"), MULTIPART),
        (form(data=JSON_BODY), MULTIPART),
        (form(file=npz.dumps([("x", ROW)])), MULTIPART),
        (form(x=ndlist.dumps([("whatever", ROW)])), MULTIPART),
        (b"x=%5B1%2C2%5D", "application/x-www-form-urlencoded"),
    ],
)
def test_every_supported_body_gives_the_same_tensor(body, content_type):
    for buffer in (body, memoryview(body)):
        tensors = decode(buffer, content_type)
        assert list(tensors) == ["x"]
        assert tensors["x"].tolist() == [[1.0, 2.0]]
        assert tensors["x"].flags.aligned
        assert tensors["x"].flags.c_contiguous


def test_fields_of_a_form_are_inputs_and_bare_words_are_text():
    tensors = decode(form(b=b'["u", "v"]', a=b"[1, 2]"), MULTIPART, TWO)
    assert [tensors[name].tolist() for name in ("a", "b")] == [[1.0, 2.0], ["u", "v"]]
    assert decode(b"a=1&b=a+word", "application/x-www-form-urlencoded", TWO)["b"].tolist() == ["a word"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (
            b"<a/>",
            "text/xml",
            415,
            "content type text/xml is not supported; send application/json, tensor/ndlist",
        ),
        (b"GIF89a", "image/gif", 415, "content type image/gif"),
        (ndlist.dumps([("z", ROW)]), "tensor/ndlist", 400, "input z: unknown"),
        (ndlist.dumps([(None, ROW), (None, ROW)]), "tensor/ndlist", 400, "got 2 arrays"),
        (ndlist.dumps([(None, ROW.astype(np.float64))]), "tensor/ndlist", 400, "got float64 [1, 2]"),
        (ndlist.dumps([(None, ROW.astype(np.int32))]), "tensor/ndlist", 400, "got int32 [1, 2]"),
        (ndlist.dumps([(None, np.ones((0, 2), np.float32))]), "tensor/ndlist", 400, "no rows"),
        (form(y=b"1", x=b"2"), MULTIPART, 400, "input y: unknown"),
        (b"", "application/json", 400, "the body is empty"),
        (b"", "tensor/npz", 400, "tensor/npz"),
    ],
)
def test_a_wrong_body_is_refused(body, content_type, status, words):
    with pytest.raises(RequestError) as error:
        decode(body, content_type)
    assert error.value.status == status
    assert words in error.value.message


def test_narrower_numbers_are_widened():
    wide = Signature((TensorSpec("x", "int64", (-1,)),), ())
    assert (
        decode(ndlist.dumps([(None, np.array([1], np.uint8))]), "tensor/ndlist", wide)["x"].dtype == np.int64
    )


def test_without_a_signature_only_forms_are_split_and_the_query_stays_first():
    assert decode(b"anything", "text/plain", None) == (Part("q", b"query"), Part("data", b"anything"))
    found = decode(form(data=b"1", file=b"\0\r\n"), MULTIPART, None)
    assert [(part.key, bytes(part.data)) for part in found] == [
        ("q", b"query"),
        ("data", b"1"),
        ("file", b"\0\r\n"),
    ]
    assert decode(b"a=%C3%A9&b", "application/x-www-form-urlencoded", None)[1:] == (
        Part("a", "é".encode()),
        Part("b", b""),
    )
    assert djl.decode((), Properties(), None) == ()


def test_without_a_signature_numpy_is_not_imported():
    code = (
        "import sys; from frame.worker.codecs import djl; from frame.api import Part, Properties;"
        "headers = Properties({'content-type': 'application/x-www-form-urlencoded'});"
        "djl.decode((Part('data', b'a=1'),), headers, None);"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0


# --- answers --------------------------------------------------------------------------------------


def encode(properties, outputs=None):
    response = djl.encode(
        RequestTensors({"y": ROW}) if outputs is None else outputs, Properties(properties), X
    )
    assert response.status == 200
    assert [part.key for part in response.parts] == ["data"]
    return response.properties["Content-Type"], response.parts[0].data


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        (None, None, "application/json"),
        ("*/*", "application/json", "application/json"),
        (None, "tensor/npz", "tensor/npz"),
        ("*/*", "tensor/ndlist", "tensor/ndlist"),
        ("tensor/ndlist", "application/json", "tensor/ndlist"),
        ("application/json", "tensor/ndlist", "application/json"),
        ("Tensor/NPZ", None, "tensor/npz"),
        ("text/html, tensor/npz;q=0.5, application/json;q=0.9", None, "application/json"),
        ("tensor/*", "tensor/safetensors", "tensor/safetensors"),
        ("tensor/*", "application/json", "tensor/ndlist"),
        ("application/*", "tensor/npz", "application/json"),
        ("tensor/npz;q=0, */*;q=nonsense", None, "application/json"),
        ("text/html", "tensor/npz", "tensor/npz"),
        ("application/json", "image/png", "application/json"),
    ],
)
def test_the_answer_has_the_format_that_was_accepted(accept, content_type, expected):
    headers = {"Accept": accept, "Content-Type": content_type}
    kind, data = encode({key: value for key, value in headers.items() if value is not None})
    assert kind == expected
    if kind == "application/json":
        assert json.loads(data) == {"predictions": [[1.0, 2.0]]}
    else:
        reader = {"tensor/ndlist": ndlist, "tensor/npz": npz, "tensor/safetensors": safetensors}[kind]
        assert dict(reader.loads(data))["y"].tolist() == [[1.0, 2.0]]


def test_a_request_without_batch_axis_gets_an_answer_without_it_in_binary_too():
    tensors = decode(ndlist.dumps([(None, ROW[0])]), "tensor/ndlist")
    _, data = encode({"accept": "tensor/ndlist"}, tensors.answer({"y": ROW}))
    assert ndlist.loads(data)[0][1].shape == (2,)


@pytest.mark.parametrize("accept", ["tensor/ndlist", "tensor/npz", "tensor/safetensors"])
def test_a_format_that_cannot_hold_the_output_is_406(accept):
    with pytest.raises(RequestError, match="accept application/json instead") as error:
        encode({"accept": accept}, {"y": np.array([b"a"], object)})
    assert error.value.status == 406


def test_another_models_tensors_are_taken_by_position_unless_a_name_fits():
    specs = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "float32", (-1, 2)))
    one, two = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)

    def decoded(*names: str, **more: str):
        body = ndlist.dumps(list(zip(names, (one, two), strict=True)))
        properties = Properties({"content-type": "tensor/ndlist", **more})
        return djl.decode((Part("data", body),), properties, Signature(specs, ()))

    chained = {"x-frame-by-position": "true"}
    found = decoded("x", "y", **chained)
    assert (found["a"].tolist(), found["b"].tolist()) == (one.tolist(), two.tolist())
    found = decoded("b", "a", **chained)
    assert (found["a"].tolist(), found["b"].tolist()) == (two.tolist(), one.tolist())
    for names, more in ((("c", "a"), chained), (("x", "y"), {})):
        with pytest.raises(RequestError):
            decoded(*names, **more)

"""The functions of a workflow in their worker: arguments by content type, answers by their type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from frame.contract.models import EngineContext, ModelSpec
from frame.contract.properties import Properties
from frame.contract.requests import Part, Request, RequestError, Response
from frame.wire.calls import ARGUMENTS_PROPERTY, FUNCTION_PROPERTY
from frame.worker.codecs import ndlist, npz, safetensors
from frame.worker.ensemble import ensemble
from frame.worker.functions import FunctionsEngine, FunctionsModel, FunctionsOptions, decode_value

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def call(function, *arguments: tuple[str, bytes], accept: str = ""):
    """Call a function with arguments of these content types."""
    given = [{"type": kind, "parts": ["data"]} for kind, _ in arguments]
    properties = {FUNCTION_PROPERTY: "f", ARGUMENTS_PROPERTY: json.dumps(given), "accept": accept}
    request = Request(
        id="r", properties=Properties(properties), parts=tuple(Part("data", data) for _, data in arguments)
    )
    (answer,) = FunctionsModel({"f": function}).predict([request])
    return answer


def body(answer: Response) -> bytes:
    return bytes(answer.parts[0].data)


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("application/ld+json", b"1", 1),
        ("", b'{"a": 1}', {"a": 1}),
        ("application/x-www-form-urlencoded", b"[2]", [2]),
        ("application/x-www-form-urlencoded", b"a=1", b"a=1"),
        ("text/plain; charset=utf-8", "grün".encode(), "grün"),
        ("image/png", b"\x89PNG", b"\x89PNG"),
        ("application/octet-stream", b"\x89PNG", b"\x89PNG"),
    ],
)
def test_values_are_decoded_by_their_content_type(kind, data, value):
    assert decode_value(memoryview(data), kind) == value


@pytest.mark.parametrize(
    ("kind", "dumps"),
    [("tensor/ndlist", ndlist.dumps), ("tensor/npz", npz.dumps), ("tensor/safetensors", safetensors.dumps),
     ("application/octet-stream", ndlist.dumps)],
)  # fmt: skip
def test_tensors_are_arrays_by_name(kind, dumps):
    found = decode_value(dumps([("x", ARRAY)]), kind)
    assert list(found) == ["x"]
    assert np.array_equal(found["x"], ARRAY)


def test_tensors_without_a_name_are_called_by_their_position():
    assert list(decode_value(ndlist.dumps([("", ARRAY), ("y", ARRAY)]), "tensor/ndlist")) == ["0", "y"]


def test_malformed_values_are_the_requests_error():
    for kind in ("application/json", "tensor/ndlist", "tensor/npz"):
        answer = call(lambda value: value, (kind, b"{nothing"))
        assert isinstance(answer, RequestError)
        assert answer.status == 400


def test_what_a_function_returns_is_written_by_its_type():
    cases = [
        ({"a": [1, None]}, "application/json", b'{"a":[1,null]}'),
        ("grün", "text/plain; charset=utf-8", "grün".encode()),
        (b"raw", "application/octet-stream", b"raw"),
        (3.5, "application/json", b"3.5"),
        ({}, "application/json", b"{}"),
    ]
    for value, kind, written in cases:
        answer = call(lambda _, value=value: value, ("text/plain", b""))
        assert (answer.properties["Content-Type"], body(answer)) == (kind, written)
    assert call(lambda _: None, ("text/plain", b"")).status == 204
    own = Response(status=201, parts=(Part("data", b"own"),))
    assert call(lambda _: own, ("text/plain", b"")) is own


def test_arrays_are_written_as_tensors_in_the_format_that_is_asked_for():
    answer = call(lambda _: {"y": ARRAY}, ("text/plain", b""), accept="tensor/ndlist")
    assert answer.properties["Content-Type"] == "tensor/ndlist"
    ((name, array),) = ndlist.loads(body(answer))
    assert name == "y"
    assert np.array_equal(array, ARRAY)
    answer = call(lambda _: ARRAY, ("text/plain", b""))
    assert json.loads(body(answer)) == {"predictions": ARRAY.tolist()}


def test_an_annotated_argument_is_the_request_as_it_came():
    def raw(given: Request, other):
        return f"{given.id} {given.properties['Content-Type']} {bytes(given.data)!r} {other}"

    answer = call(raw, ("image/png", b"\x89"), ("text/plain", b"x"))
    assert body(answer) == b"r image/png b'\\x89' x"


def test_what_a_function_raises_is_its_requests_error_alone():
    def fail(value):
        if value == "bad":
            raise KeyError("nothing")
        if value == "own":
            raise RequestError(409, "not now")
        if value == "big":
            raise MemoryError
        return value

    assert call(fail, ("text/plain", b"bad")).status == 424
    assert call(fail, ("text/plain", b"own")).status == 409
    assert call(fail, ("text/plain", b"big")).status == 507
    assert call(lambda _: object(), ("text/plain", b"")).status == 424
    assert call(lambda: None, ("text/plain", b"")).status == 424, "another number of arguments"


def test_a_request_that_names_no_function_is_refused():
    (answer,) = FunctionsModel({}).predict([Request(id="r", properties=Properties(), parts=())])
    assert isinstance(answer, RequestError)
    assert answer.status == 400


def load(folder: Path, **functions: str):
    context = EngineContext(devices=("cpu",), threads=1, slots=1)
    options = FunctionsOptions(functions=json.dumps(functions))
    spec = ModelSpec(
        name="w", version=None, path=str(folder), model_file=None, options=options, properties=Properties()
    )
    return FunctionsEngine(context).load(spec)


def test_functions_come_from_files_and_modules_as_they_are_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "one.py").write_text("def go(value):\n    return 'one'\n")
    (tmp_path / "two_steps.py").write_text("def go(value):\n    return 'two'\n")
    model = load(tmp_path, a="one.py:go", b="two_steps.go", c="two_steps:go")
    for name, said in (("a", b"one"), ("b", b"two"), ("c", b"two")):
        properties = Properties({FUNCTION_PROPERTY: name, ARGUMENTS_PROPERTY: '[{"type":"","parts":["d"]}]'})
        (answer,) = model.predict([Request(id="r", properties=properties, parts=(Part("d", b""),))])
        assert body(answer) == said
    with pytest.raises(ValueError, match=r"functions\.d: two_steps has no function gone"):
        load(tmp_path, d="two_steps.gone")
    with pytest.raises(ValueError, match=r"none\.py is no file"):
        load(tmp_path, d="none.py:go")


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1, 2, 6], 3.0),
        ([[1, 2], [3, 4]], [2.0, 3.0]),
        ([{"cat": 0.5, "dog": 0.5}, {"cat": 1.0}], {"cat": 0.75, "dog": 0.25}),
        ([{"y": [1.0]}, {"y": [2.0]}], {"y": [1.5]}),
        (["same", "same"], "same"),
        (
            [[{"className": "a", "probability": 0.2}, {"className": "b", "probability": 0.8}],
             [{"className": "a", "probability": 0.6}]],
            [{"className": "a", "probability": 0.4}, {"className": "b", "probability": 0.4}],
        ),
    ],
)  # fmt: skip
def test_an_ensemble_is_the_mean(values, mean):
    assert ensemble(values) == mean


def test_an_ensemble_of_tensors_is_their_mean_by_name():
    found = ensemble([{"y": ARRAY}, {"y": ARRAY * 3}])
    assert np.array_equal(found["y"], ARRAY * 2)
    whole = ensemble([{"y": np.array([1, 2])}, {"y": np.array([2, 2])}])
    assert whole["y"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    "values",
    [[1, "a"], [[1], [1, 2]], [{"y": ARRAY}, {"z": ARRAY}], [{"y": ARRAY}, {"y": ARRAY[0]}], [True, False]],
)
def test_answers_of_different_forms_have_no_mean(values):
    with pytest.raises(RequestError):
        ensemble(values)

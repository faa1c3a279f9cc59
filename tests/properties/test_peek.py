"""What the router guesses of a body agrees with what the worker runs together, in every format."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass

import numpy as np
from frame.api import Part, Properties, Request, RequestError, Signature, TensorModel, TensorSpec
from frame.wire.hints import BatchHint
from frame.wire.padding import Padding
from frame.wire.peek import peek
from frame.worker.codecs import ndlist, npz, safetensors
from frame.worker.padding import Padder
from frame.worker.stacking import predict_tensors
from hypothesis import assume, example, given
from hypothesis import strategies as st

NAMES = ("ids", "mask", "x\u00e9")
GIVEN_DTYPES = {
    "": ("float32", "int64", "bool", "str", "int8", "float64"),
    "float32": ("float32", "float16"),
    "int64": ("int64", "int32"),
    "str": ("str",),
    "bytes": ("str",),
}
TEXTS = ("a", 'q"', "b\\", "[", "],[", '{":', "\\\\", "\u00e9")


class Counter(TensorModel):
    """Counts its calls and the elements of the largest input of each."""

    def __init__(self, signature, padding):
        self.signature = signature
        self.calls = []
        if padding is not None:
            self.padder = Padder(padding, signature)

    def forward(self, inputs):
        self.calls.append(max(array.size for array in inputs.values()))
        rows = next(len(array) for array in inputs.values() if array.ndim)
        return {"y": np.zeros(rows, np.int64)}


@dataclass
class Case:
    signature: Signature
    padding: Padding | None


@st.composite
def cases(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    padding = draw(st.sampled_from([None, Padding(), Padding(multiple=2), Padding(lengths=(2, 4))]))
    specs = []
    for name in names:
        tail = draw(st.lists(st.sampled_from([-1, -1, 1, 2]), max_size=2))
        dtype = draw(st.sampled_from(sorted(GIVEN_DTYPES)))
        specs.append(TensorSpec(name, dtype, None if draw(st.booleans()) and not tail else (-1, *tail)))
    if padding is not None:
        specs[0] = TensorSpec(specs[0].name, specs[0].dtype, (-1, -1))
        if names[0] != "mask" and "mask" in names and draw(st.booleans()):
            at = names.index("mask")
            specs[at] = TensorSpec("mask", draw(st.sampled_from(["int64", "", "bool"])), (-1, -1))
            padding = Padding(multiple=padding.multiple, lengths=padding.lengths, mask="mask")
    outputs = (TensorSpec("y", "int64", (-1,)),)
    return Case(Signature(tuple(specs), outputs), padding)


@st.composite
def bodies(draw, case):
    """Return a request's arrays in some format, and its content type."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    keeps_axis = rows > 1 or draw(st.booleans()) or any(s.shape is None for s in case.signature.inputs)
    arrays = {}
    for spec in case.signature.inputs:
        is_mask = case.padding is not None and spec.name == case.padding.mask
        if is_mask and draw(st.booleans()):
            continue
        if spec.shape is None:
            tail = draw(st.lists(st.integers(1, 3), max_size=2))
        else:
            tail = [draw(st.sampled_from([length, 3])) if size == -1 else size for size in spec.shape[1:]]
        shape = (rows, *([length] if is_mask else tail))
        dtype = draw(st.sampled_from(GIVEN_DTYPES.get(spec.dtype, ("bool",))))
        array = np.ones(shape, np.dtype(dtype)) if dtype != "str" else np.empty(shape, object)
        if dtype == "str":
            array.ravel()[:] = draw(
                st.lists(st.sampled_from(TEXTS), min_size=array.size, max_size=array.size)
            )
        arrays[spec.name] = array if keeps_axis else array.reshape(shape[1:])
    return draw(st.sampled_from(FORMATS))(draw, arrays, case, keeps_axis)


# --- formats: each returns body and content type, or refuses ------------------------------------------


def as_json(draw, arrays, case, keeps_axis):
    lists = {name: array.tolist() for name, array in arrays.items()}
    if any(spec.dtype == "bytes" for spec in case.signature.inputs) and draw(st.booleans()):
        for spec in case.signature.inputs:
            if spec.dtype == "bytes":
                lists[spec.name] = np.full(arrays[spec.name].shape, {"b64": "YQ=="}, object).tolist()
    value = {"inputs": lists}
    forms = ["inputs", "form"]
    if len(lists) == 1:
        forms += ["bare", "only"]
    if keeps_axis:
        forms.append("instances")
    form = draw(st.sampled_from(forms))
    only = next(iter(lists.values()))
    if form == "bare":
        value = only
    elif form == "only":
        value = {"inputs": only}
    elif form == "instances":
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        value = {"instances": only if len(lists) == 1 and draw(st.booleans()) else rows}
    text = json.dumps(value, ensure_ascii=False, **draw(st.sampled_from(SPACING))).encode()
    kinds = ["application/json", "Application/JSON; charset=utf-8", "", "application/x+json"]
    return text, "application/x-www-form-urlencoded" if form == "form" else draw(st.sampled_from(kinds))


SPACING = ({}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" ,\t", " :\r\n")})


def listed(draw, arrays, case):
    """Return names and arrays, perhaps without names, which then are in the signature's order."""
    pairs = [(spec.name, arrays[spec.name]) for spec in case.signature.inputs if spec.name in arrays]
    return draw(st.permutations(pairs)) if draw(st.booleans()) else [(None, array) for _, array in pairs]


def as_ndlist(draw, arrays, case, keeps_axis):
    assume(all(array.dtype.kind != "O" for array in arrays.values()))
    return ndlist.dumps(listed(draw, arrays, case)), draw(st.sampled_from(["tensor/ndlist", ""]))


def as_safetensors(draw, arrays, case, keeps_axis):
    assume(all(array.dtype.kind != "O" for array in arrays.values()))
    return safetensors.dumps(arrays.items()), "tensor/safetensors"


def as_npz(draw, arrays, case, keeps_axis):
    kind = draw(st.sampled_from(["tensor/npz", "application/octet-stream", "tensor/ndlist"]))
    if draw(st.booleans()):
        return npz.dumps(arrays.items()), kind
    file = io.BytesIO()
    save = draw(st.sampled_from([np.savez, np.savez_compressed]))
    plain = [
        (name, array.astype(str) if array.dtype == object else array)
        for name, array in listed(draw, arrays, case)
    ]
    if plain[0][0] is None:
        save(file, *(array for _, array in plain))
    else:
        save(file, **dict(plain))
    return file.getvalue(), kind


FORMATS = (as_json, as_json, as_ndlist, as_npz, as_safetensors)


def hint_of(case: Case, body: bytes, kind: str) -> BatchHint:
    return peek(body[:65536], len(body), kind, "", case.signature, case.padding)


def run(case: Case, *requests: tuple[bytes, str]) -> list[int]:
    """Return the sizes of the calls; requests that are refused are no concern of the hints."""
    model = Counter(case.signature, case.padding)
    results = predict_tensors(
        model,
        [
            Request(id="r", properties=Properties({"content-type": kind}), parts=(Part("data", body),))
            for body, kind in requests
        ],
    )
    assume(not any(isinstance(result, RequestError) and result.status == 400 for result in results))
    return model.calls


@given(st.data())
def test_equal_keys_mean_one_call_and_different_keys_several(data):
    case = data.draw(cases())
    requests = [data.draw(bodies(case)), data.draw(bodies(case))]
    calls = run(case, *requests)
    first, second = (hint_of(case, *request) for request in requests)
    assert (first.key == second.key) == (len(calls) == 1)


@given(st.data())
def test_the_cost_is_what_the_largest_input_of_the_request_alone_has(data):
    case = data.draw(cases())
    request = data.draw(bodies(case))
    assert hint_of(case, *request).cost == max(run(case, request))


KINDS = ("application/json", "tensor/ndlist", "tensor/npz", "tensor/safetensors", "", "image/png", "\udcff")


@given(st.data())
def test_any_bytes_get_a_hint(data):
    case = data.draw(cases())
    body = bytearray(data.draw(bodies(case))[0] if data.draw(st.booleans()) else data.draw(st.binary()))
    for _ in range(data.draw(st.integers(0, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    first = bytes(body[: data.draw(st.integers(0, len(body)))])
    found = peek(first, len(body), data.draw(st.sampled_from(KINDS)), "", case.signature, case.padding)
    assert isinstance(found.key, bytes)
    assert found.cost >= 1


@given(st.text('[]{},:"\\ 1.e-tbxinputsances64', max_size=40))
@example('{"inputs":')
@example("[[]")
def test_any_text_like_json_gets_a_hint(text):
    for dtype in ("int64", ""):
        signature = Signature((TensorSpec("x", dtype, None),), ())
        body = text.encode()
        assert peek(body, len(body), "application/json", "", signature).cost >= 1


@given(st.lists(st.integers(0, 3), max_size=4))
def test_shapes_of_nested_lists_are_those_of_numpy(shape):
    signature = Signature((TensorSpec("x", "int64", None),), ())
    body = json.dumps(np.zeros([3, *shape], int).tolist()).encode()
    seen = np.array(json.loads(body)).shape
    found = peek(body, len(body), "application/json", "", signature)
    if math.prod(seen):
        assert found == (f"[{','.join(map(str, seen[1:]))}]".encode(), math.prod(seen))
    else:
        assert found == (b"application/json", len(body))

"""Requests of different lengths on a TensorModel: what is padded with what, and what an answer keeps."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from frame.api import Part, Properties, Request, RequestError, Response, Signature, TensorModel, TensorSpec
from frame.wire.padding import Padding, mask_source
from frame.worker.codecs import ndlist
from frame.worker.codecs.images import image_input
from frame.worker.padding import Padder
from frame.worker.stacking import predict_tensors, warm_up_tensors
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

IDS = TensorSpec("ids", "int64", (-1, -1))
MASK = TensorSpec("mask", "int64", (-1, -1))
Y = TensorSpec("y", "int64", (-1, -1))


class Recorder(TensorModel):
    """Gives back its first input under each name of its outputs, and keeps what it was called with."""

    def __init__(self, inputs, outputs=(Y,), padding=None, compute=None):
        self.signature = Signature(tuple(inputs), tuple(outputs))
        self.calls = []
        self.compute = compute or (
            lambda arrays: {spec.name: next(iter(arrays.values())) for spec in outputs}
        )
        if padding is not None:
            self.padder = Padder(Padding.from_json(padding.to_json()), self.signature)

    def forward(self, inputs):
        assert list(inputs) == [spec.name for spec in self.signature.inputs]
        assert all(array.flags.c_contiguous for array in inputs.values())
        self.calls.append({name: array.tolist() for name, array in inputs.items()})
        return self.compute(inputs)


def request(value, content_type="application/json"):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    properties = Properties({"Content-Type": content_type, "Accept": "application/json"})
    return Request(id="r", properties=properties, parts=(Part("data", data),))


def run(model, *values):
    """Return each request's answer: the predictions, or the error's status and message."""
    results = predict_tensors(
        model, [value if isinstance(value, Request) else request(value) for value in values]
    )
    return [
        json.loads(bytes(result.parts[0].data))["predictions"]
        if isinstance(result, Response)
        else (result.status, result.message)
        for result in results
    ]


# --- lengths ----------------------------------------------------------------------------------------


def test_without_padding_lengths_that_differ_run_apart():
    model = Recorder([IDS])
    assert run(model, [[1, 2]], [[3]]) == [[[1, 2]], [[3]]]
    assert [call["ids"] for call in model.calls] == [[[1, 2]], [[3]]]


def test_by_batch_requests_are_padded_to_the_longest_and_answers_cut_back():
    model = Recorder([IDS], padding=Padding())
    assert run(model, [[1]], [[2, 3, 4], [5, 6, 7]], [8, 9]) == [[[1]], [[2, 3, 4], [5, 6, 7]], [8, 9]]
    assert model.calls == [{"ids": [[1, 0, 0], [2, 3, 4], [5, 6, 7], [8, 9, 0]]}]


def test_by_batch_a_request_alone_is_not_padded():
    model = Recorder([IDS], padding=Padding())
    assert run(model, [[1]]) == [[[1]]]
    assert model.calls == [{"ids": [[1]]}]


@pytest.mark.parametrize("padding", [Padding(multiple=4), Padding(lengths=(4, 8))])
def test_with_multiples_and_fixed_lengths_shapes_do_not_depend_on_company(padding):
    bodies = [[[1]], [[2, 3, 4]], [[1, 2, 3, 4, 5]], [[7] * 8]]
    together = Recorder([IDS], padding=padding)
    assert run(together, *bodies) == bodies
    assert together.calls == [
        {"ids": [[1, 0, 0, 0], [2, 3, 4, 0]]},
        {"ids": [[1, 2, 3, 4, 5, 0, 0, 0], [7] * 8]},
    ]
    alone = Recorder([IDS], padding=padding)
    assert [run(alone, body)[0] for body in bodies] == bodies
    assert [row for call in alone.calls for row in call["ids"]] == [
        row for call in together.calls for row in call["ids"]
    ]


def test_what_is_longer_than_the_fixed_lengths_is_refused_alone():
    model = Recorder([IDS], padding=Padding(lengths=(2, 4)))
    first, second = run(model, [[1, 2, 3, 4, 5]], [[1]])
    assert first == (400, "input ids: axis 1 has the length 5; this model takes up to 4 (pad_to)")
    assert second == [[1]]


def test_each_input_is_padded_with_its_own_value_in_its_dtype():
    specs = [
        IDS, TensorSpec("weights", "float32", (-1, -1)), TensorSpec("words", "str", (-1, -1)),
        TensorSpec("blobs", "bytes", (-1, -1)), TensorSpec("flags", "bool", (-1, -1)),
    ]  # fmt: skip
    model = Recorder(specs, padding=Padding(values={"ids": -100, "weights": 0.5}), compute=lambda _: {})

    def body(size):
        values = {"ids": [1], "weights": [2.0], "words": ["w"], "blobs": ["b"], "flags": [True]}
        return {"inputs": {name: [value * size] for name, value in values.items()}}

    run(model, body(1), body(2))
    assert {name: rows[0] for name, rows in model.calls[0].items()} == {
        "ids": [1, -100], "weights": [2.0, 0.5], "words": ["w", ""], "blobs": [b"b", b""],
        "flags": [True, False],
    }  # fmt: skip


def test_dtypes_and_fixed_sizes_that_differ_still_run_apart():
    model = Recorder([TensorSpec("x", "", (-1, -1))], padding=Padding())
    run(model, [[1]], [[0.5, 1.5]], [[2, 3]], [["a"]], [["b", "c"]])
    assert [call["x"] for call in model.calls] == [[[1, 0], [2, 3]], [[0.5, 1.5]], [["a", ""], ["b", "c"]]]


def test_scalars_and_rows_are_left_as_they_are():
    model = Recorder([IDS, TensorSpec("rate", "int64", ())], padding=Padding())
    run(model, {"inputs": {"ids": [[1]], "rate": 8}}, {"inputs": {"ids": [[1, 2]], "rate": 8}})
    assert model.calls == [{"ids": [[1, 0], [1, 2]], "rate": 8}]


def test_a_pad_value_that_an_input_of_open_dtype_cannot_hold_is_refused_with_its_request():
    model = Recorder([TensorSpec("x", "", (-1, -1))], padding=Padding(values={"x": -1}))
    unsigned = request(ndlist.dumps([("x", np.ones((1, 2), np.uint8))]), "tensor/ndlist")
    bad, good = run(model, unsigned, [[0.5]])
    assert bad == (400, "input x: got uint8, which cannot be padded with -1")
    assert good == [[0.5]]


def test_when_the_padded_batch_fails_each_request_is_run_alone():
    def compute(arrays):
        if len(arrays["ids"]) > 1:
            raise ValueError("no batches")
        return {"y": arrays["ids"]}

    model = Recorder([IDS], padding=Padding(multiple=2), compute=compute)
    assert run(model, [[1]], [[2, 3]]) == [[[1]], [[2, 3]]]
    assert model.calls[1:] == [{"ids": [[1, 0]]}, {"ids": [[2, 3]]}]


# --- the mask ---------------------------------------------------------------------------------------

MASKED = Padding(mask="mask", values={"ids": 9, "mask": 0})


def test_a_missing_mask_is_made_and_a_sent_one_is_padded_with_0():
    model = Recorder([IDS, MASK], padding=MASKED)
    values = [
        {"inputs": {"ids": [[1]]}},
        {"inputs": {"ids": [[1, 2, 3]], "mask": [[1, 1, 0]]}},
        {"inputs": [[4, 5]]},
        {"instances": [{"ids": [6, 7], "mask": [0, 1]}]},
    ]
    assert run(model, *values) == [[[1]], [[1, 2, 3]], [[4, 5]], [[6, 7]]]
    (call,) = model.calls
    assert call["ids"] == [[1, 9, 9], [1, 2, 3], [4, 5, 9], [6, 7, 9]]
    assert call["mask"] == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_arrays_without_names_may_leave_the_mask_out():
    model = Recorder([MASK, IDS], padding=MASKED)
    one, two = np.array([[1, 2]]), np.array([[1, 0]])
    bodies = [ndlist.dumps([(None, one)]), ndlist.dumps([(None, two), (None, one)])]
    run(model, *(request(body, "tensor/ndlist") for body in bodies))
    assert model.calls == [{"mask": [[1, 1], [1, 0]], "ids": [[1, 2], [1, 2]]}]


def test_a_row_without_batch_axis_keeps_its_form_when_its_mask_is_made():
    model = Recorder([IDS, MASK], padding=MASKED)
    assert run(model, {"inputs": {"ids": [1, 2]}}) == [[1, 2]]
    assert model.calls == [{"ids": [[1, 2]], "mask": [[1, 1]]}]


@pytest.mark.parametrize("mask_first", [True, False])
def test_the_error_of_a_bad_request_is_about_what_it_sent(mask_first):
    model = Recorder([IDS, MASK], padding=MASKED)
    usual = {"inputs": {"ids": [[1]], "mask": [[1]]}} if mask_first else {"inputs": {"ids": [[1]]}}
    run(model, usual)  # the form that comes first is expected of the next request
    errors = run(
        model,
        {"inputs": {"ids": [["a"]]}},
        {"inputs": {"ids": [["a"]], "mask": [[1]]}},
        {"inputs": {"mask": [[1]]}},
        {"inputs": {"ids": [[1, 2]], "mask": [[1]]}},
        {"inputs": {"idz": [[1]], "mask": [[1]]}},
    )
    assert [status for status, _ in errors] == [400] * 5
    assert [message.partition(";")[0] for _, message in errors] == [
        "input ids: expected int64 [-1, -1], got text",
        "input ids: expected int64 [-1, -1], got text",
        "input ids: missing",
        "input mask: expected length 2, as long as input ids, got 1",
        "input idz: unknown",
    ]


def test_without_a_mask_configured_a_missing_input_stays_an_error():
    model = Recorder([IDS, MASK], padding=Padding())
    assert run(model, {"inputs": {"ids": [[1]]}})[0][0] == 400


def test_a_mask_may_be_of_any_number_and_made_for_an_image():
    spec = TensorSpec("pixels", "float32", (-1, 3, -1, -1))
    model = Recorder(
        [spec, TensorSpec("mask", "", (-1, -1))], (TensorSpec("y", "float32", spec.shape),),
        padding=Padding(multiple=4, mask="mask"),
    )  # fmt: skip
    model.image_input = image_input({"color": "rgb"}, Signature((spec,), ()))
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    (answer,) = run(model, request(file.getvalue(), "image/png"))
    assert np.shape(answer) == (3, 2, 3)
    assert np.shape(model.calls[0]["pixels"]) == (1, 3, 4, 4)
    assert model.calls[0]["mask"] == [[1, 1, 0, 0]]  # as long as the first free axis of the first input


# --- what an answer keeps ---------------------------------------------------------------------------


def test_axes_are_cut_only_where_the_signature_leaves_them_open_and_they_are_as_long():
    outputs = [
        TensorSpec("free", "int64", (-1, -1)),
        TensorSpec("fixed", "int64", (-1, 4)),
        TensorSpec("other", "int64", (-1, -1)),
        TensorSpec("unknown", "int64", None),
        TensorSpec("rank", "int64", (-1, -1, -1)),
        TensorSpec("rows", "int64", (-1,)),
    ]

    def compute(arrays):
        rows = len(arrays["ids"])
        shapes = {"free": 4, "fixed": 4, "other": 5, "unknown": 4, "rank": 4}
        made = {name: np.zeros((rows, size), np.int64) for name, size in shapes.items()}
        return {**made, "rows": np.zeros(rows, np.int64), "unnamed": np.zeros((rows, 4), np.int64)}

    model = Recorder([IDS], outputs, Padding(lengths=(4,)), compute)
    (answer,) = run(model, {"inputs": [[1, 2]]})
    assert {name: np.shape(value) for name, value in answer.items()} == {
        "free": (1, 2), "fixed": (1, 4), "other": (1, 5), "unknown": (1, 4), "rank": (1, 4), "rows": (1,),
        "unnamed": (1, 4),
    }  # fmt: skip


def test_axes_that_were_padded_to_one_length_are_told_apart_by_their_place():
    image = TensorSpec("image", "int64", (-1, 1, -1, -1))
    model = Recorder(
        [image], [TensorSpec("map", "int64", (-1, -1, -1))], Padding(multiple=4),
        compute=lambda arrays: {"map": arrays["image"][:, 0]},
    )  # fmt: skip
    pictures = [np.ones((1, 1, height, width), int).tolist() for height, width in ((2, 3), (4, 1))]
    answers = run(model, *pictures)
    assert [np.shape(answer) for answer in answers] == [(1, 2, 3), (1, 4, 1)]
    assert np.all(np.concatenate([np.ravel(answer) for answer in answers]) == 1)
    assert len(model.calls) == 1


def test_of_axes_in_the_same_place_the_longest_counts_so_that_no_data_are_lost():
    specs = [TensorSpec("source", "int64", (-1, -1)), TensorSpec("target", "int64", (-1, -1))]
    model = Recorder(
        specs, [TensorSpec("y", "int64", (-1, -1, -1))], Padding(multiple=4),
        compute=lambda arrays: {"y": np.repeat(arrays["target"][:, :, None], 4, axis=2)},
    )  # fmt: skip
    (answer,) = run(model, {"inputs": {"source": [[1]], "target": [[1, 2, 3]]}})
    assert np.shape(answer) == (1, 3, 3)


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1, max_size=6),
    st.sampled_from([Padding(), Padding(multiple=3), Padding(lengths=(2, 5, 9))]),
)
def test_whatever_lengths_come_each_request_gets_its_own_data(rows, padding):
    model = Recorder([IDS], padding=padding)
    assert run(model, *([row] for row in rows)) == [[row] for row in rows]
    if padding.is_by_batch:
        assert len(model.calls) == 1


# --- what is refused at the load --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "inputs", "message"),
    [
        (Padding(), [TensorSpec("x", "float32", (-1, 3)), TensorSpec("z", "str", None)],
         "pad_to: no input has a free dimension besides its rows; the inputs are x, z"),
        (Padding(values={"labels": 1}), [IDS, MASK],
         "pad_values: the model has no input labels; its inputs are ids, mask"),
        (Padding(values={"ids": 0.5}), [IDS], "pad_values: input ids is int64, which cannot be 0.5"),
        (Padding(values={"x": 1e9}), [TensorSpec("x", "float16", (-1, -1))],
         "pad_values: input x is float16, which cannot be 1e+09"),
        (Padding(values={"x": 1}), [TensorSpec("x", "str", (-1, -1))],
         "pad_values: input x is str, which cannot be 1"),
        (Padding(values={"mask": 1}, mask="mask"), [IDS, MASK],
         "pad_values: mask is the pad_mask, which is always padded with 0"),
        (Padding(mask="masc"), [IDS, MASK],
         "pad_mask: the model has no input masc; its inputs are ids, mask"),
        (Padding(mask="mask"), [IDS, TensorSpec("mask", "int64", (-1, 1, -1))],
         "pad_mask: input mask must be numbers of the shape [rows, length], the length free"),
        (Padding(mask="mask"), [IDS, TensorSpec("mask", "str", (-1, -1))],
         "pad_mask: input mask must be numbers of the shape [rows, length], the length free"),
        (Padding(mask="mask"), [MASK], "pad_mask: no input but mask has a free dimension besides its rows"),
    ],
)  # fmt: skip
def test_padding_that_does_not_fit_the_model_is_refused_and_says_what_the_model_has(padding, inputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Padder(padding, Signature(tuple(inputs), ()))


def test_the_warm_up_is_as_long_as_padding_makes_it():
    model = Recorder(
        [IDS, TensorSpec("x", "int64", (1, 2, -1)), TensorSpec("s", "int64", ())], padding=Padding(multiple=4)
    )
    warm_up_tensors(model)
    assert {name: np.shape(value) for name, value in model.calls[0].items()} == {
        "ids": (1, 4),
        "x": (1, 2, 4),
        "s": (),
    }


def test_other_errors_of_a_codec_are_not_tried_twice():
    padder = Recorder([IDS, MASK], padding=MASKED).padder
    tries = []

    def decode(signature):
        tries.append(signature)
        raise RequestError(400, "no")

    with pytest.raises(RequestError):
        padder.read(decode)
    assert len(tries) == 1


def test_the_masks_length_is_that_of_the_first_input_whose_axis_1_is_free():
    image, words = TensorSpec("image", "uint8", (-1, 3, -1)), TensorSpec("words", "int64", (-1, -1))
    assert mask_source(Signature((image, words, MASK), ()), "mask") == ("words", 1)
    assert mask_source(Signature((image, MASK), ()), "mask") == ("image", 2)
    assert mask_source(Signature((MASK,), ()), "mask") is None

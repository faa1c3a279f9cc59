"""Batches on a TensorModel: what runs together, what fails alone, and whose rows an answer has."""

from __future__ import annotations

import io
import json
import logging
import threading

import numpy as np
import pytest
from frame.api import Part, Properties, Request, RequestError, Response, Signature, TensorModel, TensorSpec
from frame.worker.codecs import ndlist
from frame.worker.codecs.images import image_input
from frame.worker.stacking import predict_tensors, warm_up_tensors
from frame.worker.stats import BATCH_STATS, BatchStats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


class Doubling(TensorModel):
    """Doubles its inputs; keeps the shapes of its calls; fails on -1, refuses -2."""

    def __init__(self, *inputs: TensorSpec, outputs: tuple[TensorSpec, ...] | None = None) -> None:
        specs = inputs or (TensorSpec("x", "float32", (-1, -1)),)
        outputs = outputs or tuple(
            TensorSpec(f"{spec.name}2", spec.dtype, spec.shape) for spec in specs if spec.shape
        )
        self.signature = Signature(specs, outputs)
        self.calls: list[list[tuple[int, ...]]] = []

    def forward(self, inputs):
        self.calls.append([array.shape for array in inputs.values()])
        if any((array == -1).any() for array in inputs.values()):
            message = "/secret/path: kernel 0xdeadbeef"
            raise RuntimeError(message)
        if any((array == -2).any() for array in inputs.values()):
            raise RequestError(400, "-2 is refused")
        if any((array == -3).any() for array in inputs.values()):
            raise MemoryError
        return {f"{name}2": array * 2 for name, array in inputs.items() if array.ndim}


def request(value, content_type="application/json", **more):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    properties = Properties({"Content-Type": content_type})
    return Request(id="r", properties=properties, parts=(Part("data", data),), **more)


def answer(result):
    assert isinstance(result, Response), result
    return json.loads(result.parts[0].data)["predictions"]


def answers(model, *values):
    return [answer(result) for result in predict_tensors(model, [request(value) for value in values])]


def test_requests_of_one_shape_run_in_one_call_and_get_their_own_rows():
    model = Doubling()
    assert answers(model, [[1, 2]], [[3, 4], [5, 6]], [7, 8]) == [[[2, 4]], [[6, 8], [10, 12]], [14, 16]]
    assert model.calls == [[(4, 2)]]


def test_requests_of_different_shapes_run_in_groups_by_first_arrival():
    model = Doubling()
    assert answers(model, [[1, 2]], [[3]], [[4, 5]], [[6]]) == [[[2, 4]], [[6]], [[8, 10]], [[12]]]
    assert model.calls == [[(2, 2)], [(2, 1)]]


def test_requests_of_different_dtypes_do_not_run_together_where_the_model_leaves_them_open():
    model = Doubling(TensorSpec("x", "", (-1,)))
    assert answers(model, [1], [0.5], [2]) == [[2], [1.0], [4]]
    assert model.calls == [[(2,)], [(1,)]]


def test_a_single_request_is_not_copied():
    body = ndlist.dumps([("xxxx", np.ones((1, 2), np.float32))])
    seen = []

    class Given(Doubling):
        def forward(self, inputs):
            seen.append(inputs["xxxx"])
            return super().forward(inputs)

    # Four bodies at every offset of a buffer: one of them lies aligned, and must reach the model where it is.
    buffers = [memoryview(bytes(offset) + body)[offset:] for offset in range(4)]
    for buffer in buffers:
        data = Request(
            id="r", properties=Properties({"Content-Type": "tensor/ndlist"}), parts=(Part("data", buffer),)
        )
        predict_tensors(Given(TensorSpec("xxxx", "float32", (-1, -1))), [data])
    shared = [
        np.shares_memory(array, np.frombuffer(buffer, np.uint8))
        for array, buffer in zip(seen, buffers, strict=True)
    ]
    assert shared.count(True) == 1
    assert all(array.flags.aligned for array in seen)


@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=3), max_size=8
    )
)
def test_whatever_rows_come_each_request_gets_its_own(batch):
    assert answers(Doubling(), *batch) == [[[2 * value for value in row] for row in rows] for rows in batch]


def test_a_request_that_cannot_be_read_fails_alone():
    model = Doubling()
    results = predict_tensors(model, [request([[1, 2]]), request([["a"]]), request(b"{"), request([[3, 4]])])
    assert [getattr(result, "status", None) for result in results] == [200, 400, 400, 200]
    assert answer(results[3]) == [[6, 8]]
    assert model.calls == [[(2, 2)]]


@pytest.mark.parametrize(
    ("bad", "status", "type_name"),
    [(-1, 424, "HandlerError"), (-2, 400, "BadRequestError"), (-3, 507, "OutOfMemoryError")],
)
def test_a_request_on_which_the_model_fails_fails_alone(bad, status, type_name):
    model = Doubling()
    results = predict_tensors(model, [request([[1]]), request([[bad]]), request([[2]])])
    assert [result.status for result in results] == [200, status, 200]
    assert results[1].type_name == type_name
    assert [answer(results[index]) for index in (0, 2)] == [[[2]], [[4]]]
    assert model.calls == [[(3, 1)], [(1, 1)], [(1, 1)], [(1, 1)]]


def test_what_the_model_raised_is_in_the_log_and_not_in_the_answer(caplog):
    with caplog.at_level(logging.ERROR):
        (result,) = predict_tensors(Doubling(), [request([[-1]])])
    assert "secret" not in result.message
    assert "RuntimeError" in result.message
    assert "kernel 0xdeadbeef" in caplog.text
    assert "request=r" in caplog.text


def test_scalars_are_shared_by_requests_of_the_same_value():
    model = Doubling(TensorSpec("x", "float32", (-1, 1)), TensorSpec("sr", "int64", ()))
    bodies = [{"inputs": {"x": [[value]], "sr": rate}} for value, rate in ((1, 8), (2, 16), (3, 8))]
    assert answers(model, *bodies) == [[[2]], [[4]], [[6]]]
    assert model.calls == [[(2, 1), ()], [(1, 1), ()]]


def test_a_model_with_a_fixed_first_axis_is_called_for_each_request():
    model = Doubling(TensorSpec("x", "float32", (-1, 1)), TensorSpec("state", "float32", (2, -1)))
    body = {"inputs": {"x": [[1]], "state": [[1], [2]]}}
    assert answers(model, body, body) == [{"x2": [[2]], "state2": [[2], [4]]}] * 2
    assert len(model.calls) == 2


def test_a_model_whose_output_has_no_free_axis_is_called_for_each_request():
    model = Doubling(outputs=(TensorSpec("x2", "float32", (4,)),))
    assert answers(model, [[1]], [[2]]) == [[[2]], [[4]]]
    assert len(model.calls) == 2


def test_outputs_that_cannot_be_split_make_the_batch_run_one_by_one():
    class Summing(Doubling):
        def forward(self, inputs):
            super().forward(inputs)
            return {"x2": inputs["x"].sum(axis=0, keepdims=True)}

    model = Summing()
    assert answers(model, [[1], [2]], [[3]]) == [[[3]], [[3]]]
    assert model.calls == [[(3, 1)], [(2, 1)], [(1, 1)]]


def test_inputs_of_unknown_rank_are_stacked_by_their_first_axis():
    model = Doubling(TensorSpec("x", "float32", None), outputs=(TensorSpec("x2", "float32", None),))
    assert answers(model, [[1, 2]], [[3, 4]], [5]) == [[[2, 4]], [[6, 8]], [10]]
    assert model.calls == [[(2, 2)], [(1,)]]


def test_inputs_of_unknown_rank_that_differ_in_rows_are_never_stacked():
    outputs = (TensorSpec("a2", "float32", None), TensorSpec("b2", "float32", None))
    model = Doubling(TensorSpec("a", "float32", None), TensorSpec("b", "float32", None), outputs=outputs)
    assert answers(model, *[{"inputs": {"a": [1, 2], "b": [3]}}] * 2) == [{"a2": [2, 4], "b2": [6]}] * 2
    assert model.calls == [[(2,), (1,)]] * 2


def test_a_forward_that_returns_no_dict_of_arrays_is_424():
    class Wrong(Doubling):
        def forward(self, inputs):
            return [inputs["x"]]

    (result,) = predict_tensors(Wrong(), [request([[1]])])
    assert (result.status, result.type_name) == (424, "HandlerError")


def test_an_answer_that_cannot_be_written_fails_alone():
    model = Doubling(TensorSpec("x", "", (-1,)))
    bodies = [
        request(ndlist.dumps([("x", np.ones(1, np.complex64))]), "tensor/ndlist"),
        Request(
            id="r",
            properties=Properties({"Content-Type": "tensor/ndlist", "Accept": "application/json"}),
            parts=(Part("data", ndlist.dumps([("x", np.ones(1, np.complex64))])),),
        ),
    ]
    assert [result.status for result in predict_tensors(model, bodies)] == [200, 406]


def test_a_codec_that_does_not_exist_fails_its_request_alone():
    results = predict_tensors(Doubling(), [request([[1]], codec="frame.no_such_codec"), request([[2]])])
    assert [result.status for result in results] == [424, 200]


def test_decoding_does_not_wait_for_a_model_call():
    entered, release = threading.Event(), threading.Event()

    class Slow(Doubling):
        def forward(self, inputs):
            entered.set()
            assert release.wait(10)
            return super().forward(inputs)

    slow = threading.Thread(target=predict_tensors, args=(Slow(), [request([[1]])]))
    slow.start()
    try:
        assert entered.wait(10)
        assert answers(Doubling(), [[2]]) == [[[4]]]
    finally:
        release.set()
        slow.join(10)


def test_time_and_calls_of_a_batch_are_counted():
    stats = BatchStats()
    token = BATCH_STATS.set(stats)
    try:
        answers(Doubling(), [[1]], [[1, 2]])
    finally:
        BATCH_STATS.reset(token)
    assert stats.calls == 2
    assert min(stats.decode, stats.compute, stats.encode) > 0


def test_an_empty_batch_has_no_answers():
    assert predict_tensors(Doubling(), []) == []


# --- images ---------------------------------------------------------------------------------------


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def imaging(spec):
    model = Doubling(spec)
    model.image_input = image_input({"width": "1", "height": "1", "scale": "1"}, model.signature)
    return model


@pytest.mark.parametrize("shape", [(-1, 3, 1, 1), None])
def test_images_are_rows_and_stack_with_each_other(shape):
    model = imaging(TensorSpec("x", "float32", shape))
    form = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + png(3) + b"\r\n--b--"
    )
    batch = [
        request(png(1), "image/png"),
        request(png(2), ""),
        request(form, "multipart/form-data; boundary=b"),
        request([[[[4]], [[4]], [[4]]]]),
        request(b"no image", "image/png"),
    ]
    results = predict_tensors(model, batch)
    assert [result.status for result in results] == [200, 200, 200, 200, 400]
    assert [np.ravel(answer(result)).tolist() for result in results[:4]] == [
        [2 * value] * 3 for value in (1, 2, 3, 4)
    ]
    assert np.shape(answer(results[0])) == (3, 1, 1)
    assert model.calls == [[(4, 3, 1, 1)]]


def test_an_image_for_a_model_that_declares_none_is_415():
    (result,) = predict_tensors(Doubling(), [request(png(1), "image/png")])
    assert result.status == 415


# --- warm-up --------------------------------------------------------------------------------------


def test_warm_up_runs_one_row_of_zeros():
    model = Doubling(
        TensorSpec("x", "float32", (-1, 3)), TensorSpec("n", "int64", ()), TensorSpec("s", "str", (-1,))
    )
    seen = {}

    def forward(inputs):
        seen.update(inputs)
        return {"x2": inputs["x"]}

    model.forward = forward
    warm_up_tensors(model)
    assert {name: (array.shape, array.ravel().tolist()) for name, array in seen.items()} == {
        "x": ((1, 3), [0.0, 0.0, 0.0]),
        "n": ((), [0]),
        "s": ((1,), [""]),
    }


class Failing(Doubling):
    def __init__(self, error: Exception, shape: tuple[int, ...] | None) -> None:
        super().__init__(TensorSpec("x", "float32", shape), outputs=(TensorSpec("y", "float32", None),))
        self.error = error

    def forward(self, inputs):
        raise self.error


@pytest.mark.parametrize(
    ("error", "shape"),
    [
        (RequestError(400, "too small"), (-1, 3)),
        (RuntimeError("kernel larger than input"), (-1, -1)),
        (OSError(), None),
    ],
)
def test_a_model_that_refuses_the_warm_up_shape_is_loaded(error, shape):
    warm_up_tensors(Failing(error, shape))


@pytest.mark.parametrize(("error", "shape"), [(RuntimeError("broken"), (-1, 3)), (MemoryError(), (-1, -1))])
def test_a_model_that_cannot_run_its_own_shape_is_not_loaded(error, shape):
    with pytest.raises(type(error)):
        warm_up_tensors(Failing(error, shape))

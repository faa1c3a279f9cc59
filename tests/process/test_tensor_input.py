"""What a tensor model makes of good and bad input, alone and in one batch with others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from frame.testing import Server, run_server
from onnx import TensorProto, helper

from tests.process.probes import DEADLINE, JSON, error_of, metric, put_model

X, Y = "measurements", "totals"
BATCHED = 8


def put_sum(folder: Path, **properties: object) -> None:
    """Write an ONNX model: float32 [rows, 3] to the sums float32 [rows, 1]."""
    put_model(folder, **properties)
    taken = helper.make_tensor_value_info(X, TensorProto.FLOAT, ["rows", 3])
    given = helper.make_tensor_value_info(Y, TensorProto.FLOAT, ["rows", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", [X, "axes"], [Y])
    graph = helper.make_graph([node], "sum", [taken], [given], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the model alone, and with batches that wait for their last request."""
    store = tmp_path_factory.mktemp("store")
    put_sum(store / "sum")
    put_sum(store / "batched", batch_size=BATCHED, max_batch_delay=5000)
    with run_server(store) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as opened:
        yield opened


def test_signature_is_shown(client: httpx.Client) -> None:
    (version,) = client.get("/models/sum").json()
    (model,) = version["models"]
    (taken,), (given,) = model["signature"]["inputs"], model["signature"]["outputs"]
    assert (taken["name"], taken["dtype"], taken["shape"]) == (X, "float32", [-1, 3])
    assert (given["name"], given["dtype"], given["shape"]) == (Y, "float32", [-1, 1])


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[1, 2, 3], [4, 5, 6]]},
        {"inputs": {X: [[1, 2, 3], [4, 5, 6]]}},
        {"instances": [[1, 2, 3], [4, 5, 6]]},
        {"instances": [{X: [1, 2, 3]}, {X: [4, 5, 6]}]},
        [[1, 2, 3], [4, 5, 6]],
    ],
)
def test_every_form_of_json_gives_the_same_answer(client: httpx.Client, body: object) -> None:
    answer = client.post("/predictions/sum", json=body)
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    rows = predictions[Y] if isinstance(predictions, dict) else predictions
    assert rows == [[6.0], [15.0]]


def test_npz_goes_in_and_comes_out(client: httpx.Client) -> None:
    file = io.BytesIO()
    np.savez(file, **{X: np.array([[1, 2, 3]], np.float32)})
    answer = client.post("/predictions/sum", content=file.getvalue(), headers={"content-type": "tensor/npz"})
    assert answer.headers["content-type"] == "tensor/npz"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))[Y], [[6]])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"inputs": [[1, 2]]}, X),  # wrong shape
        ({"inputs": [[[1, 2, 3]], [[4, 5, 6]]]}, X),  # wrong rank
        ({"inputs": [["a", "b", "c"]]}, X),  # wrong dtype
        ({"inputs": [[1, 2, 3], [4, 5]]}, X),  # ragged
        ({"inputs": {"weights": [[1, 2, 3]]}}, "weights"),  # unknown name
        ({"inputs": {}}, X),
        ({"rows": [[1, 2, 3]]}, "inputs"),
        (None, X),  # no body at all
    ],
)
def test_wrong_input_is_400_and_names_it(client: httpx.Client, body: object, named: str) -> None:
    code, kind, message = error_of(client.post("/predictions/sum", json=body))
    assert (code, kind) == (400, "BadRequestError")
    assert named in message


@pytest.mark.parametrize("body", [b"", b"{", b'{"inputs": [[1, 2, 3]}'])
def test_malformed_json_is_400(client: httpx.Client, body: bytes) -> None:
    code, kind, _ = error_of(client.post("/predictions/sum", content=body, headers=JSON))
    assert (code, kind) == (400, "BadRequestError")


@pytest.mark.parametrize("content_type", ["application/x-tar", "text/html", "application/xml"])
def test_unsupported_content_type_is_415_and_names_what_is_read(
    client: httpx.Client, content_type: str
) -> None:
    answer = client.post("/predictions/sum", content=b"abc", headers={"content-type": content_type})
    code, _, message = error_of(answer)
    assert code == 415
    assert content_type in message
    assert "application/json" in message


@pytest.mark.parametrize("content_type", ["tensor/npz", "tensor/ndlist", "tensor/safetensors"])
@pytest.mark.parametrize("body", [b"", b"PK", b"\x00" * 64, b"\xff" * 64])
def test_malformed_tensors_are_400(client: httpx.Client, content_type: str, body: bytes) -> None:
    answer = client.post("/predictions/sum", content=body, headers={"content-type": content_type})
    code, kind, _ = error_of(answer)
    assert (code, kind) == (400, "BadRequestError")


def test_pickled_array_is_refused_and_not_loaded(client: httpx.Client, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "touched"), "w")

    file = io.BytesIO()
    np.savez(file, **{X: np.array([Touch()], dtype=object)})
    (tmp_path / "touched").unlink(missing_ok=True)
    answer = client.post("/predictions/sum", content=file.getvalue(), headers={"content-type": "tensor/npz"})
    assert error_of(answer)[0] == 400
    assert not (tmp_path / "touched").exists()


def test_bad_requests_fail_alone_in_their_batch(server: Server) -> None:
    bodies: list[object] = [
        {"inputs": [[1, 1, 1]]},
        {"inputs": [[1, 1]]},
        {"inputs": [[2, 2, 2], [3, 3, 3]]},
        {"inputs": [["a", "b", "c"]]},
        {"inputs": {"weights": [[1, 2, 3]]}},
        {"inputs": [[4, 4, 4]]},
        {"inputs": [1, 2, 3]},
        "nothing",
    ]
    before = metric(server, "frame_batch_size_count", model="batched")

    def send(body: object) -> httpx.Response:
        return httpx.post(f"{server.url}/predictions/batched", json=body, timeout=DEADLINE)

    with ThreadPoolExecutor(BATCHED) as pool:
        answers = list(pool.map(send, bodies))
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 400, 200, 200, 400]
    sums = [np.ravel(list(_rows(answers[i]))).tolist() for i in (0, 2, 5, 6)]
    assert sums == [[3], [6, 9], [12], [6]]
    assert metric(server, "frame_batch_size_count", model="batched") == before + 1


def _rows(answer: httpx.Response) -> list[float]:
    predictions = answer.json()["predictions"]
    return predictions[Y] if isinstance(predictions, dict) else predictions

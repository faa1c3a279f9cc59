"""ONNX, TorchScript and TensorFlow do what every engine must, on a model that adds, scales and sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch
from frame.api import Request
from frame.testing import EngineCompliance, json_request, tensor_request
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.slow(180)

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


class _Linear(EngineCompliance):
    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        rows = np.arange(16, dtype=np.float32).reshape(4, 4) / 3
        return [
            json_request({"inputs": {"x": rows[:1].tolist()}}, id="json"),
            tensor_request(id="one row", x=rows[1:2]),
            tensor_request(id="three rows", x=rows[1:]),
            json_request([rows[3].tolist()], id="an array"),
        ]


class TestOnnx(_Linear):
    @pytest.fixture
    def engine(self) -> str:
        return "onnx"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        folder = tmp_path / "linear"
        folder.mkdir()
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(WEIGHTS, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "model.onnx")
        return folder


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights


class TestTorchScript(_Linear):
    @pytest.fixture
    def engine(self) -> str:
        return "torchscript"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        folder = tmp_path / "linear"
        folder.mkdir()
        torch.jit.script(Linear()).save(folder / "model.pt")
        (folder / "serving.properties").write_text(
            "option.inputs=x:float32[-1,4]\noption.outputs=y:float32[-1,3]\n"
        )
        return folder


class TestTensorFlow(_Linear):
    @pytest.fixture
    def engine(self) -> str:
        return "tf"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        module = tf.Module()
        module.weights = tf.Variable(WEIGHTS)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x @ module.weights}

        module.serve = serve
        tf.saved_model.save(module, str(tmp_path / "linear"), signatures={"serving_default": serve})
        return tmp_path / "linear"

"""The engine does what every engine must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from frame.api import Request
from frame.testing import EngineCompliance, Workbench, json_request, tensor_request
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
ROWS = np.arange(20, dtype=np.float32).reshape(5, 4) / 3


class TestOpenVINO(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "openvino"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(WEIGHTS, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [
            json_request(ROWS[:1].tolist()),
            json_request({"inputs": {"x": ROWS[1:3].tolist()}}),
            tensor_request(x=ROWS[3:]),
        ]

    def test_answers_are_the_products(self, bench: Workbench) -> None:
        (answer,) = bench.ask(json_request(ROWS.tolist()))
        assert np.allclose(json.loads(answer.body)["predictions"], ROWS @ WEIGHTS, atol=1e-4)

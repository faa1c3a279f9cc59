"""The engine does what every engine must, in the environment that MXNET_PYTHON names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from frame.api import Request
from frame.testing import EngineCompliance, json_request, tensor_request

PYTHON = os.environ["MXNET_PYTHON"]
MAKE = """
import mxnet, numpy, sys
weights = numpy.arange(12, dtype="float32").reshape(3, 4) / 7
symbol = mxnet.sym.FullyConnected(mxnet.sym.Variable("data"), num_hidden=3, no_bias=True, name="fc")
symbol.save(sys.argv[1] + "/net-symbol.json")
mxnet.nd.save(sys.argv[1] + "/net-0000.params", {"arg:fc_weight": mxnet.nd.array(weights)})
"""


class TestMXNet(EngineCompliance):
    settings: ClassVar = {"option.pythonExecutable": PYTHON, "option.shape": "4"}

    @pytest.fixture
    def engine(self) -> str:
        return "mxnet"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        subprocess.run([PYTHON, "-c", MAKE, str(tmp_path)], check=True, timeout=60)
        return tmp_path

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        rows = np.arange(20, dtype=np.float32).reshape(5, 4) / 3
        return [
            json_request(rows[:1].tolist()),
            json_request({"inputs": {"data": rows[1:3].tolist()}}),
            tensor_request(data=rows[3:]),
        ]

"""Apache MXNet, whose last version needs an old numpy, in an environment of its own beside the others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from frame.testing import run_server

from tests.process.probes import DEADLINE, put_model

pytestmark = pytest.mark.slow(600)
ENGINE = Path(__file__).parents[2] / "examples" / "engines" / "frame-mxnet"
TELLS = """
import numpy
from djl_python import Output


def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add_as_json({"numpy": numpy.__version__})
"""
MAKE = """
import sys
import mxnet

block = mxnet.gluon.nn.HybridSequential()
block.add(mxnet.gluon.nn.Conv2D(4, 3), mxnet.gluon.nn.Dense(3))
block.initialize(mxnet.init.Xavier())
block.hybridize()
image = mxnet.nd.arange(2 * 3 * 8 * 8).reshape((2, 3, 8, 8)) / 384
print(block(image).asnumpy().tolist())
block.export(sys.argv[1] + "/net")
"""


def run(command: list[str], folder: Path, **environ: str) -> str:
    """Run a command; return what it wrote."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make MXNet's environment; return its interpreter."""
    folder = tmp_path_factory.mktemp("mxnet")
    run([sys.executable, "-m", "venv", str(folder)], folder)
    run([str(folder / "bin" / "pip"), "install", "-q", "mxnet==1.9.1", "numpy==1.23.5"], folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the engine beside the server; return the variables that find it."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    run([*pip, str(folder), str(ENGINE)], folder)
    return {"PYTHONPATH": str(folder)}


def test_it_is_served_beside_a_model_with_another_numpy(
    python: Path, site: dict[str, str], tmp_path: Path
) -> None:
    model = put_model(
        tmp_path / "store" / "net",
        option__pythonExecutable=python,
        option__shape="3,8,8",
        minWorkers=1,
        batch_size=4,
    )
    expected = eval(run([str(python), "-c", MAKE, str(model)], tmp_path))  # a list of numbers
    put_model(tmp_path / "store" / "other", TELLS, minWorkers=1)
    image = (np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8) / 384).tolist()
    with run_server(tmp_path / "store", environ=site) as server:
        answer = httpx.post(
            f"{server.url}/predictions/net", json={"inputs": {"data": image}}, timeout=DEADLINE
        )
        assert answer.status_code == 200, answer.text
        assert np.allclose(answer.json()["predictions"], expected, atol=1e-4)
        other = httpx.post(f"{server.url}/predictions/other", json={}, timeout=DEADLINE).json()
    assert int(other["numpy"].partition(".")[0]) >= 2
    assert run([str(python), "-c", "import numpy; print(numpy.__version__)"], tmp_path).strip() == "1.23.5"


def test_it_does_what_every_engine_must(python: Path, site: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(ENGINE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        "tests",
    ]
    said = run(command, tmp_path, MXNET_PYTHON=str(python), **site)
    assert re.search(r"1[3-9] passed", said), said[-500:]


def test_without_an_interpreter_it_says_what_it_needs(site: dict[str, str], tmp_path: Path) -> None:
    model = put_model(tmp_path / "net")
    (model / "net-symbol.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "frame", "check", "-m", str(model)],
        env={**os.environ, **site}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "name its python in option.pythonExecutable" in done.stdout

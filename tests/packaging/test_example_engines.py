"""The example engines, built and installed into a clean environment as their authors' users would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(600)
ROOT = Path(__file__).parents[2]
APART = "frame-mxnet"
"""Its framework does not install beside the others."""
ENGINES = {
    path.name: path
    for path in sorted((ROOT / "examples" / "engines").iterdir())
    if path.is_dir() and path.name != APART
}
MOST_LINES = 150


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with the core and the examples; return its interpreter."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", str(folder)], folder)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    run([*pip, "hatchling", "pytest", "onnx"], folder)
    built = [f"{path}[cpu]" for path in ENGINES.values()]
    run([*pip, "--no-build-isolation", str(ROOT / "core"), *built], folder)
    return python


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder without this environment's variables; return what it wrote."""
    own = ("PYTHON", "VIRTUAL_ENV", "COV_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ENGINES)
def test_an_example_passes_in_a_clean_environment(name: str, environment: Path, tmp_path: Path) -> None:
    shutil.copytree(ENGINES[name] / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    said = run([str(environment), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], tmp_path)
    assert re.search(r"1[3-9] passed|[2-9]\d passed", said), said[-500:]


def test_all_of_them_are_listed_beside_each_other(environment: Path, tmp_path: Path) -> None:
    listed = run([str(environment), "-m", "frame", "engines"], tmp_path)
    assert all(name.removeprefix("frame-") in listed for name in ENGINES)


@pytest.mark.parametrize("name", ENGINES)
def test_an_example_is_short(name: str) -> None:
    own = [path for path in (ENGINES[name] / "src").rglob("*.py") if path.name != "toy.py"]
    assert sum(len(path.read_text().splitlines()) for path in own) < MOST_LINES

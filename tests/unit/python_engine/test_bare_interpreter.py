"""A handler of strings and JSON runs where nothing but the standard library is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import djl_python
import frame
import frame_python

PROGRAM = """
import sys
from frame.api import EngineContext, ModelSpec, Part, Properties, Request
from frame_python.engine import PythonEngine
from frame_python.options import PythonOptions

spec = ModelSpec(
    name="m", version=None, path=sys.argv[1], model_file=None, options=PythonOptions(), properties={}
)
model = PythonEngine(EngineContext(devices=("cpu",))).load(spec)
request = Request(id="1", properties=Properties({}), parts=(Part("data", memoryview(b'{"a": 1}')),))
one, two = model.predict([request, request])
print(bytes(one.parts[0].data).decode(), "numpy" in sys.modules)
"""
HANDLER = """
from djl_python import Input, Output

def handle(inputs: Input):
    if inputs.is_empty():
        return None
    output = Output()
    for i, item in enumerate(inputs.get_batches()):
        output.add(str(item.get_as_json()["a"] + 1), batch_index=i)
    return output
"""


def test_a_json_handler_needs_nothing_installed(tmp_path):
    packages, model = tmp_path / "packages", tmp_path / "model"
    for package in (frame, frame_python, djl_python):
        source = Path(package.__path__[0])
        shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    model.mkdir()
    (model / "model.py").write_text(HANDLER)
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({str(packages)!r})\n{PROGRAM}",
        str(model),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "2 False\n"), done.stderr

"""`frame new-engine NAME`: a distribution with an engine that works, to be changed into one's own."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from frame import __version__
from frame.contract import API_VERSION
from frame.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")

_FILES = {
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "frame-${dashed}"
version = "0.1.0"
description = "The engine $name for Frame"
requires-python = ">=3.11"
dependencies = ["frame-core>=$version", "pluggy"]

[project.optional-dependencies]
# What workers need: an extra, so that another build of it is not overwritten.
cpu = ["numpy"]
test = ["frame-${dashed}[cpu]", "pytest"]

[project.entry-points."frame.plugins"]
$module = "frame_${module}.plugin"

[tool.hatch.build.targets.wheel]
packages = ["src/frame_${module}"]
""",
    "README.md": """# frame-${dashed}

An engine for Frame: it serves models that are a file `*.$module.json`.

    pip install -e ".[test]"
    pytest
    frame engines
""",
    "src/frame_${module}/__init__.py": '''"""The engine $name for Frame."""
''',
    "src/frame_${module}/py.typed": "",
    "src/frame_${module}/options.py": '''"""Options: the server imports them, so nothing heavy here."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class ${Class_}Options:
    """Keys `option.*` of serving.properties, checked before a worker starts."""

    offset: float = option(0.0, "Added to each number.")
''',
    "src/frame_${module}/plugin.py": '''"""What the server reads: the engine as data. Imports no framework."""

from __future__ import annotations

import pluggy
from frame.api import EngineSpec

from frame_${module}.options import ${Class_}Options

hookimpl = pluggy.HookimplMarker("frame")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="$name",
            api=($api, $api),
            target="frame_${module}.engine:${Class_}Engine",
            claims=("*.$module.json",),
            options=${Class_}Options,
            requires={"numpy": "pip install 'frame-${dashed}[cpu]'"},
        )
    ]
''',
    "src/frame_${module}/engine.py": '''"""What workers run: the place for the framework."""

from __future__ import annotations

import json
import os

import numpy as np
from frame.api import Engine, ModelSpec, Signature, TensorModel, Tensors, TensorSpec

from frame_${module}.options import ${Class_}Options


class ${Class_}Model(TensorModel):
    """Multiplies rows by weights. Whatever a framework's model does belongs here."""

    def __init__(self, weights: list[float], offset: float, slots: int) -> None:
        self.concurrency = slots  # calls may overlap: `forward` changes nothing
        self._weights = np.asarray(weights, dtype="float32")
        self._offset = np.float32(offset)
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (-1, len(weights))),),
            outputs=(TensorSpec("y", "float32", (-1, len(weights))),),
        )

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch."""
        return {"y": inputs["x"] * self._weights + self._offset}


class ${Class_}Engine(Engine):
    """Loads models."""

    def load(self, spec: ModelSpec) -> ${Class_}Model:
        """Load one; say what is wrong and what to do when that cannot be."""
        if spec.model_file is None:
            raise ValueError("there is no *.$module.json in the model folder")
        options: ${Class_}Options = spec.options
        with open(os.path.join(spec.path, spec.model_file), encoding="utf-8") as file:
            try:
                weights = json.load(file)["weights"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{spec.model_file}: expected an object with weights: {error}") from error
        return ${Class_}Model(weights, options.offset, self.context.slots)
''',
    "tests/test_compliance.py": '''"""The engine does what every engine must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from frame.api import Request
from frame.testing import EngineCompliance, json_request, tensor_request


class Test${Class_}(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "$name"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        (tmp_path / "model.$module.json").write_text(json.dumps({"weights": [1, 2, 3]}))
        return tmp_path

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [
            json_request([[1, 2, 3]]),
            json_request({"inputs": {"x": [[4, 5, 6]]}}),
            tensor_request(x=np.ones((2, 3), "float32")),
        ]
''',
}


def write_engine(name: str, folder: Path) -> list[Path]:
    """Write a new engine's distribution into `folder`/frame-NAME; return its files.

    Raises:
        ConfigError: the name is none, or the folder is there already.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name}: expected small letters and digits, with - or _ between words: my-engine")
    dashed, module = name.replace("_", "-"), name.replace("-", "_")
    root = folder / f"frame-{dashed}"
    if root.exists():
        raise ConfigError(f"{root} is there already; give another name, or remove it")
    names = {
        "name": name,
        "dashed": dashed,
        "module": module,
        "Class_": "".join(word.capitalize() for word in module.split("_")),
        "version": __version__,
        "api": str(API_VERSION),
    }
    written = []
    for path, text in _FILES.items():
        target = root / Template(path).substitute(names)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(names), encoding="utf-8")
        written.append(target)
    return written

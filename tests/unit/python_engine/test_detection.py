"""What the Python engine claims, and how strongly; that the router learns it without any framework."""

from __future__ import annotations

import subprocess
import sys

import pytest
from frame.api import EngineSpec, FileEntry, FolderListing
from frame.contract.options import parse_options
from frame_python.plugin import frame_engines


def claim(*files: str, name: str = "m", **properties: str):
    [spec] = frame_engines()
    keys = {f"option.{key}": value for key, value in properties.items()}
    listing = FolderListing(name=name, files=tuple(FileEntry(f, 1) for f in sorted(files)), properties=keys)
    return spec.detect(spec, listing)


@pytest.mark.parametrize(
    ("files", "properties", "strength", "model_file"),
    [
        (["model.py", "model.onnx"], {}, 100, "model.py"),
        (["m.py", "model.py"], {}, 100, "m.py"),
        (["MAR-INF/MANIFEST.json", "model.py"], {}, 100, None),
        (["weights.bin", "serve.py"], {"entryPoint": "serve.py"}, 100, "serve.py"),
        (["weights.bin"], {"entryPoint": "djl_python.xgboost_handler"}, 100, None),
        (["model.skops"], {}, 30, "model.skops"),
        (["m.joblib", "model.pkl"], {}, 30, "m.joblib"),
        (["config.json", "model.safetensors"], {}, 10, None),
        (["tiny.gguf"], {}, 50, "tiny.gguf"),
        (["readme.txt"], {"model_id": "gpt2"}, 10, None),
    ],
)
def test_a_folder_is_claimed_as_strongly_as_its_files_say(files, properties, strength, model_file):
    found = claim(*files, **properties)
    assert (found.strength, found.model_file) == (strength, model_file)
    assert found.reason


@pytest.mark.parametrize("files", [["model.onnx"], ["other.py"], ["sub/model.py"], ["other.pkl"], []])
def test_other_folders_are_not_claimed(files):
    assert claim(*files) is None


def test_options_have_djls_spellings():
    [spec] = frame_engines()
    assert isinstance(spec, EngineSpec)
    options = parse_options(spec.options, {"entryPoint": "a.py", "async_mode": "true", "handler": "h"})
    assert (options.entryPoint, options.async_mode, options.handler) == ("a.py", True, "h")
    assert spec.open_options


def test_the_plugin_and_djl_python_are_imported_without_numpy():
    code = (
        "import sys\nclass Block:\n    def find_spec(self, name, *rest):\n"
        "        assert name.split('.')[0] not in {'numpy', 'PIL', 'torch'}, name\n"
        "sys.meta_path.insert(0, Block())\n"
        "import frame_python.plugin, frame_python.engine, djl_python\n"
        "import djl_python.encode_decode, djl_python.async_utils, djl_python.sklearn_handler\n"
        "print(len(frame_python.plugin.frame_engines()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr

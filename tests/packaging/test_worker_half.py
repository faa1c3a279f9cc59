"""The worker half runs with the standard library and numpy alone, on Python 3.10, from its bundle."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from frame.contract.engines import EngineSpec
from frame.plugins import load_plugins
from frame.pool.bundle import make_bundle

# Argument: what may be imported beside the standard library. Imports every module of the bundle.
IMPORT_ALL = """
import importlib, os, pkgutil, sys

allowed = set(sys.argv[2].split(",")) | set(sys.stdlib_module_names)


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(name + " is not allowed here")


sys.meta_path.insert(0, Guard())
bundle = sys.argv[1]
names = []
for folder, folders, files in os.walk(bundle, followlinks=True):
    # `frame_python.handlers` is the built-in handler: imported where there is no model.py, it needs torch.
    folders[:] = [name for name in folders if name not in {"__pycache__", "handlers"}]
    for file in files:
        # A plugin's own module is the router's.
        if file.endswith(".py") and file not in {"__main__.py", "plugin.py"}:
            path = os.path.relpath(os.path.join(folder, file), bundle)[:-3].split(os.sep)
            names.append(".".join(path[:-1] if path[-1] == "__init__" else path))
for name in sorted(names):
    importlib.import_module(name)
print(len(names), sorted({"msgspec", "click", "quart", "pluggy"} & sys.modules.keys()))
"""


def spec_of(name: str) -> EngineSpec:
    """Return an installed engine."""
    return next(spec for spec in load_plugins().engines if spec.name == name)


@pytest.mark.parametrize("engine", ["echo", "python"])
def test_worker_half_needs_nothing_but_numpy(tmp_path: Path, engine: str) -> None:
    done = import_all(
        make_bundle(tmp_path / "bundle", spec_of(engine)), "frame,frame_python,djl_python,numpy"
    )
    assert done.returncode == 0, done.stderr
    count, loaded = done.stdout.split(maxsplit=1)
    assert int(count) > 20
    assert loaded.strip() == "[]"


def import_all(bundle: Path, allowed: str) -> subprocess.CompletedProcess[str]:
    """Import every module of a bundle in a fresh interpreter that refuses the rest."""
    environ = {"PYTHONPATH": str(bundle), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", IMPORT_ALL, str(bundle), allowed]
    return subprocess.run(command, capture_output=True, text=True, timeout=25, check=False, env=environ)


def test_handlers_of_djl_serving_import_their_module_with_the_standard_library_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", spec_of("python"))
    script = """
import sys


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"frame", "frame_python", "djl_python", *sys.stdlib_module_names}:
            raise ImportError(name + " is not allowed here")


sys.meta_path.insert(0, Guard())
import frame_python.engine
import frame.worker.session
from djl_python import Input, Output, PairList, Session, SessionManager
assert Output().add("x").finalize is not None
assert Input().is_empty()
"""
    environ = {"PYTHONPATH": str(bundle), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False, env=environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["echo", "python", "onnx", "torchscript", "tf"])
def test_bundle_holds_the_worker_half_and_the_engine_alone(tmp_path: Path, engine: str) -> None:
    spec = spec_of(engine)
    bundle = make_bundle(tmp_path / "bundle", spec)
    assert {path.name for path in (bundle / "frame").iterdir()} == {
        "__init__.py",
        "api.py",
        "contract",
        "wire",
        "worker",
    }
    wanted = {"frame", spec.target.partition(":")[0].partition(".")[0], *spec.packages}
    assert {path.name for path in bundle.iterdir()} == wanted


@pytest.mark.parametrize("engine", ["echo", "python", "onnx", "torchscript", "tf"])
def test_worker_half_is_python_3_10(tmp_path: Path, engine: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", spec_of(engine))
    files = [path for folder in bundle.rglob("*") for path in sources(folder)]
    assert len(files) > 20
    for path in files:
        ast.parse(path.read_text(), str(path), feature_version=(3, 10))


def sources(path: Path) -> list[Path]:
    """Return the Python files that a link of the bundle leads to."""
    if not path.is_symlink():
        return []
    real = path.resolve()
    return list(real.rglob("*.py")) if real.is_dir() else [real]

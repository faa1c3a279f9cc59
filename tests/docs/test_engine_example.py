"""The engine of docs/writing-an-engine.md works as it is printed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from frame.api import (
    EngineContext,
    FileEntry,
    FolderListing,
    ModelSpec,
    Part,
    Properties,
    Request,
    RequestError,
    Response,
)
from frame.contract.options import check_options

from tests.docs.pages import code_blocks, page

FILES = {
    match[1]: block
    for block in code_blocks(page("writing-an-engine"), "python")
    if (match := re.match(r"# frame_matrix/(\w+)\.py\n", block))
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Import the printed package."""
    package = tmp_path / "frame_matrix"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in FILES.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: __import__(f"frame_matrix.{name}", fromlist=["_"]) for name in FILES}
    for name in ["frame_matrix", *(f"frame_matrix.{name}" for name in FILES)]:
        sys.modules.pop(name, None)


def ask(body: object) -> Request:
    """Make a JSON request."""
    properties = Properties({"Content-Type": "application/json"})
    return Request(id="r", properties=properties, parts=(Part("data", json.dumps(body).encode()),))


def test_it_claims_its_files(modules: dict[str, ModuleType]) -> None:
    (spec,) = modules["plugin"].frame_engines()
    listing = FolderListing(name="m", files=(FileEntry("weights.npy", 100),), properties={})
    claim = spec.detect(spec, listing)
    assert claim is not None
    assert claim.model_file == "weights.npy"


def test_it_answers_and_refuses(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    weights = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    np.save(tmp_path / "weights.npy", weights)
    engine = modules["engine"].MatrixEngine(EngineContext(devices=("cpu",), slots=2))
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(tmp_path),
        model_file="weights.npy",
        options=modules["options"].MatrixOptions(),
        properties={},
        batch_size=4,
    )
    model = engine.load(spec)
    assert model.concurrency == 2
    model.warm_up()
    good, wrong = model.predict([ask({"inputs": [[1, 2, 3]]}), ask({"inputs": [[1, 2]]})])
    assert isinstance(good, Response)
    assert json.loads(bytes(good.parts[0].data)) == {"predictions": [[10.0, 4.0]]}
    assert isinstance(wrong, RequestError)
    assert wrong.status == 400
    assert "x" in wrong.message


def test_its_options_are_checked(modules: dict[str, ModuleType]) -> None:
    options = modules["options"].MatrixOptions
    assert check_options(options, {"scale": "2.5"}) == ({"scale": 2.5}, [])
    _, (error,) = check_options(options, {"layout": "cells"})
    assert "rows, columns" in error.message

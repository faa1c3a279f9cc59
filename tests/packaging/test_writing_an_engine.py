"""docs/writing-an-engine.md, followed word by word in a clean environment."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.docs.stage import Stage

pytestmark = pytest.mark.slow(900)
ROOT = Path(__file__).parents[2]


def test_the_engine_of_the_page_serves_and_passes_compliance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "core", tmp_path / "frame" / "core")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONSTRAINT", str(ROOT / "constraints.txt"))
    stage = Stage("writing-an-engine", folder, has_frame=False)
    try:
        stage.run()
        for language in ("python", "python", "python", "toml"):
            stage.file(language)
        said = stage.run()
        assert re.search(r"^matrix\b", said, re.MULTILINE), said
        assert "doubler" in said
        assert json.loads(stage.run()) == {"predictions": [[2.0, 4.0, 6.0]]}
        stage.file("python")
        said = stage.run()
        assert re.search(r"1[3-9] passed", said), said
        assert "failed" not in said
        stage.shell("unset PIP_CONSTRAINT")  # MXNet needs another numpy
        stage.replace("./examples", str(ROOT / "examples"))
        stage.replace("/opt/mxnet", str(tmp_path / "mxnet"))
        (folder / "model_store" / "net").mkdir()
        stage.run()
        assert (
            stage.shell(
                f"{tmp_path}/mxnet/bin/python -c 'import mxnet, numpy; print(numpy.__version__)'"
            ).strip()
            == "1.23.5"
        )
        assert "shape" in stage.shell("cat model_store/net/serving.properties")
        assert stage.rest() == []
    finally:
        stage.close()

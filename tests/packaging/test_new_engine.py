"""`frame new-engine` makes a distribution that installs, is found, and does what every engine must."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from frame.cli.main import main

pytestmark = pytest.mark.slow(240)


def run(command: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_new_engine_is_built_found_and_passes_at_once(tmp_path: Path) -> None:
    frame = [sys.executable, "-m", "frame"]
    made = run([*frame, "new-engine", "tiny-sums"], tmp_path)
    assert made.returncode == 0, made.stderr
    project = tmp_path / "frame-tiny-sums"
    assert sorted(made.stdout.split()) == sorted(
        str(path.relative_to(tmp_path)) for path in project.rglob("*") if path.is_file()
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        "site",
    ]
    built = run([*pip, str(project)], tmp_path)
    assert built.returncode == 0, built.stderr
    site = {"PYTHONPATH": str(tmp_path / "site")}
    listed = run([*frame, "engines"], tmp_path, **site)
    assert "tiny-sums" in listed.stdout
    tested = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(project)], project, **site)
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert re.search(r"1[3-9] passed", tested.stdout), tested.stdout[-500:]
    checked = run([sys.executable, "-m", "mypy", "--strict", "src"], project)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", ["", "My", "1st", "a--b", "a/b", "../a", "a b", "-a", "a-"])
def test_names_that_are_none_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-engine", "--into", str(tmp_path), "--", name]) == 1
    assert "expected small letters and digits" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-engine", "mine", "--into", str(tmp_path)]) == 0
    assert main(["new-engine", "mine", "--into", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err

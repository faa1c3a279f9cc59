"""`python -m frame.testing`: a model is run on files without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.process.probes import OBEDIENT, put_model

pytestmark = pytest.mark.slow(120)


def run(*arguments: object) -> tuple[int, str]:
    """Run the command; return its exit code and what it wrote."""
    command = [sys.executable, "-m", "frame.testing", *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


def put(folder: Path, name: str, value: object) -> Path:
    """Write a request."""
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_a_handler_answers_files_one_by_one_and_together(tmp_path: Path) -> None:
    model = put_model(tmp_path / "m", OBEDIENT)
    files = [put(tmp_path, f"{name}.json", {"name": name}) for name in ("one", "two")]
    code, said = run(model, *files, "--repeat", 3)
    assert code == 0, said
    assert "engine python" in said
    assert "6 batches of 1" in said
    assert '"batch":1' in said.replace(" ", "")
    code, said = run(model, *files, "--together", "--output", tmp_path / "answers")
    assert code == 0, said
    assert "1 batches of 2" in said
    answer = json.loads((tmp_path / "answers" / "two.json.answer").read_text())
    assert (answer["name"], answer["batch"]) == ("two", 2)


def test_errors_end_it_with_1_and_say_why(tmp_path: Path) -> None:
    model = put_model(tmp_path / "m", OBEDIENT)
    code, said = run(model, put(tmp_path, "bad.json", {"raise": "as told"}))
    assert (code, "424" in said, "as told" in said) == (1, True, True)
    code, said = run(put_model(tmp_path / "broken", "raise RuntimeError('no weights')"))
    assert (code, "no weights" in said) == (1, True)
    code, said = run(put_model(tmp_path / "nothing"))
    assert (code, "engine" in said) == (1, True)
    assert run(model, "--set", "novalue")[0] == 2
    code, said = run(model, "--set", "batch_sise=2")
    assert (code, "did you mean batch_size" in said) == (1, True)


def test_content_types_come_from_names_and_streams_are_whole(tmp_path: Path) -> None:
    model = put_model(tmp_path / "m", engine="echo")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3)))
    (tmp_path / "words.txt").write_text("one two")
    code, said = run(model, tmp_path / "x.npz", tmp_path / "words.txt", "--header", "X-Any: 1")
    assert (code, "x.npz: 200, tensor/npz" in said) == (0, True), said
    code, said = run(model, tmp_path / "words.txt", "--set", "option.mode=stream", "--engine", "echo")
    assert (code, "8 bytes in 2 pieces" in said) == (0, True), said

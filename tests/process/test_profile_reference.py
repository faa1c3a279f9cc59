"""`frame profile --reference`: what a model says before it is cut, where a self-check looks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from frame.cli import main

from tests import hf_models
from tests.process.probes import put_model

pytestmark = pytest.mark.slow(120)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model folder; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return put_model(tmp_path / "big", engine="DeepSpeed", option__tensor_parallel_degree=2)


def test_a_saved_reference_is_what_the_whole_model_says(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("deepspeed")
    import torch
    from frame_deepspeed.checking import reference_path
    from frame_python.handlers.references import Reference
    from transformers import AutoModelForCausalLM

    hf_models.make_gptj(folder)
    assert main(["profile", "--reference", str(folder)]) == 0
    printed = Path(capfd.readouterr().out.strip())
    assert printed == reference_path(folder, "float32")
    assert printed.is_relative_to(tmp_path / "cache" / "frame" / "references")
    found = Reference.load(printed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, tokens in found.texts():
        given = torch.tensor([prompt])
        answer = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=len(tokens), do_sample=False,
            min_new_tokens=len(tokens), pad_token_id=0,
        )  # fmt: skip
        assert answer[0, len(prompt) :].tolist() == tokens


def test_what_is_no_language_model_has_no_reference(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("deepspeed")
    hf_models.make_gptj(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["GPTJForQuestionAnswering"]}))
    assert main(["profile", "--reference", str(folder)]) != 0
    assert "option.task=question-answering: references are for text-generation" in capfd.readouterr().err


def test_an_engine_without_references_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_model(tmp_path / "m", engine="echo")
    assert main(["profile", "--reference", str(tmp_path / "m")]) != 0
    assert "engine=echo takes no references" in capfd.readouterr().err

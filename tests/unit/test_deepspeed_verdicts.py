"""What a self-check's numbers mean, and under which name a pass is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from frame_python.handlers.fingerprints import cache_folder, fingerprint, load_pass, save_pass
from frame_python.handlers.verdicts import (
    QUANTIZED,
    TOLERANCES,
    Compared,
    Position,
    Report,
    judge,
    make_prompts,
    tolerance_for,
)

RIGHT = Position(expected=3, seen=3, margin=0.5, error=1e-6)
NEAR_TIE = Position(expected=3, seen=4, margin=1e-4, error=1e-6)
WRONG = Position(expected=3, seen=4, margin=0.5, error=1e-6)
FAR = Position(expected=3, seen=3, margin=0.5, error=0.4)
BROKEN = Position(expected=3, seen=3, margin=0.5, error=float("nan"))
EXACT = TOLERANCES["float32"]


def row(*positions: Position, batch: int = 8, slot: int = 2) -> Compared:
    return Compared(batch=batch, slot=slot, positions=positions)


def test_near_ties_are_not_counted_and_no_disagreement() -> None:
    assert judge([row(RIGHT, NEAR_TIE, RIGHT)], EXACT) == Report(result="passed", tokens=2)


def test_one_other_token_fails_and_names_its_place() -> None:
    report = judge([row(RIGHT), row(RIGHT, WRONG, slot=5)], EXACT)
    assert (report.result, report.tokens) == ("failed", 3)
    assert report.reason.startswith("2 of 3 greedy tokens agree")
    assert "slot 5 of a batch of 8" in report.reason


@pytest.mark.parametrize("position", [FAR, BROKEN])
def test_logits_far_off_fail_though_the_tokens_agree(position: Position) -> None:
    report = judge([row(RIGHT), row(position, position, batch=1, slot=0)], EXACT)
    assert report.result == "failed"
    assert "slot 0 of a batch of 1" in report.reason


def test_single_position_off_is_no_failure_when_its_token_agrees() -> None:
    assert judge([row(RIGHT, FAR, RIGHT)], EXACT).result == "passed"


def test_single_nan_fails() -> None:
    assert judge([row(RIGHT, BROKEN, RIGHT)], EXACT).result == "failed"


def test_quantized_weights_may_change_a_tenth_of_the_tokens() -> None:
    clear, other = (Position(expected=1, seen=seen, margin=1.0, error=0.3) for seen in (1, 2))
    assert judge([row(*[clear] * 9, other)], QUANTIZED).result == "passed"
    assert judge([row(*[clear] * 8, other, other)], QUANTIZED).result == "failed"


def test_nothing_compared_is_not_run() -> None:
    assert judge([], EXACT).result == "not_run"
    assert judge([row()], EXACT).result == "not_run"


def test_only_a_pass_is_reduced() -> None:
    assert judge([row(RIGHT)], EXACT).reduce("why") == Report(result="reduced", tokens=1, reason="why")
    failed = judge([row(WRONG)], EXACT)
    assert failed.reduce("why") == failed


def test_tolerance_of_an_unknown_dtype_is_the_widest() -> None:
    assert tolerance_for("float64", is_quantized=False) == TOLERANCES["bfloat16"]
    assert tolerance_for("float32", is_quantized=False) == EXACT
    assert tolerance_for("float32", is_quantized=True) == QUANTIZED


def test_prompts_are_always_the_same_and_within_the_vocabulary() -> None:
    prompts = make_prompts(50, (3, 40))
    assert prompts == make_prompts(50, (3, 40))
    assert [len(prompt) for prompt in prompts] == [3, 40]
    assert {token for prompt in prompts for token in prompt} <= set(range(50))
    assert len(set(prompts[1])) > 20


def test_fingerprint_follows_weights_facts_and_times(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(4 << 20))
    (tmp_path / "notes.md").write_text("not part of the model")
    facts = {"torch": "2.13", "degree": 2}

    def both() -> tuple[str, str]:
        return tuple(fingerprint(str(tmp_path), facts, with_times=timed) for timed in (False, True))

    first = both()
    (tmp_path / "notes.md").write_text("changed")
    assert both() == first
    assert fingerprint(str(tmp_path), {**facts, "degree": 1}, with_times=False) != first[0]
    os.utime(weights, (1, 1))
    touched = both()
    assert touched[0] == first[0]
    assert touched[1] != first[1]
    with weights.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"x")
    assert both()[0] != first[0]


def test_only_passes_are_kept(tmp_path: Path) -> None:
    folder = cache_folder({"HOME": str(tmp_path)})
    passed = Report(result="passed", tokens=5, seconds=1.0)
    save_pass(folder, "a", passed)
    save_pass(folder, "b", Report(result="failed"))
    assert load_pass(folder, "a") == passed
    assert load_pass(folder, "b") is None
    (folder / "c.json").write_text("{")
    (folder / "d.json").write_text('{"result": "failed"}')
    assert load_pass(folder, "c") is None
    assert load_pass(folder, "d") is None


def test_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    save_pass(tmp_path / "file" / "below", "a", Report(result="passed"))
    assert cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/y"}) == Path("/x/frame/self_check")

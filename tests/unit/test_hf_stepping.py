"""Steps over slots choose the tokens that the model's own `generate` chooses for each text alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frame_python.handlers.stepping import EagerStepper, SoloStepper, Stepper
from transformers import AutoModelForCausalLM

from tests import hf_models

PROMPTS = {0: [5, 40, 41], 1: [90, 17, 200, 31, 8, 77, 76], 3: [300]}
MAKERS = {"gptj": hf_models.make_gptj, "llama": hf_models.make_llama, "bloom": hf_models.make_bloom}


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that gives the model of a family, made once."""

    @cache
    def load(family: str) -> Any:
        folder: Path = MAKERS[family](tmp_path_factory.mktemp(family))
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    return load


def generated(model: Any, ids: Sequence[int], count: int) -> list[int]:
    given = torch.tensor([list(ids)])
    answer = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return answer[0, len(ids) :].tolist()


def run(stepper: Stepper, prompts: dict[int, list[int]], counts: dict[int, int]) -> dict[int, list[int]]:
    """Let each slot join with its prompt and leave after its count."""
    found = {slot: [int(stepper.prefill(slot, ids).argmax())] for slot, ids in prompts.items()}
    while active := [slot for slot in found if len(found[slot]) < counts[slot]]:
        stepper.begin(active)
        tokens, log_probs = stepper.end()
        assert all(value <= 0 for value in log_probs.values())
        for slot in active:
            found[slot].append(tokens[slot])
    return found


@pytest.mark.parametrize(
    ("family", "make"),
    [("gptj", EagerStepper), ("llama", EagerStepper), ("gptj", SoloStepper), ("bloom", SoloStepper)],
)
def test_slots_of_any_length_give_the_tokens_of_each_text_alone(
    model_of: Any, family: str, make: Any
) -> None:
    model = model_of(family)
    stepper = make(model, slots=4, max_length=96)
    counts = {0: 80, 1: 5, 3: 12}
    found = run(stepper, PROMPTS, counts)
    assert found == {slot: generated(model, PROMPTS[slot], counts[slot]) for slot in PROMPTS}


@pytest.mark.parametrize("make", [EagerStepper, SoloStepper])
def test_a_slot_begins_another_text_while_others_run(model_of: Any, make: Any) -> None:
    model = model_of("gptj")
    stepper = make(model, slots=3, max_length=64)
    first = run(stepper, {0: [9, 8, 7, 6]}, {0: 30})
    stepper.release(0)
    long = [int(stepper.prefill(2, [44, 45]).argmax())]
    second: list[int] = []
    for step in range(20):
        if step == 4:
            stepper.prefill(0, [100, 101])  # in two pieces, with a step of the other between them
        if step == 5:
            second.append(int(stepper.prefill(0, [102], 2).argmax()))
        active = [2, 0] if second else [2]
        stepper.begin(active)
        tokens, _ = stepper.end()
        long.append(tokens[2])
        if second:
            second.append(tokens[0])
    assert first[0] == generated(model, [9, 8, 7, 6], 30)
    assert long == generated(model, [44, 45], 21)
    assert second == generated(model, [100, 101, 102], len(second))


@pytest.mark.parametrize("make", [EagerStepper, SoloStepper])
def test_a_given_token_replaces_the_likeliest(model_of: Any, make: Any) -> None:
    model = model_of("llama")
    stepper = make(model, slots=2, max_length=32)
    stepper.prefill(1, [5, 6])
    logits = stepper.decode([0, 77], [0, 2], [1])
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 77]])).logits[0, -1]
    torch.testing.assert_close(logits[1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stepper.logits(1), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_takes_no_4d_mask_raises_at_the_first_call(model_of: Any) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        EagerStepper(model_of("bloom"), slots=1, max_length=32).prefill(0, [1, 2])

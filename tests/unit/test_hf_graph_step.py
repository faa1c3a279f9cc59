"""The static steps that a GPU replays as graphs, here called directly: their tokens are `generate`'s."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frame_python.handlers import fused_gptj, step_layers
from frame_python.handlers.graph_step import IN_FLIGHT, GraphStep
from frame_python.handlers.step_graphs import TOGETHER, choose_size, sizes_up_to
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests import hf_models

MAKERS = {"gptj": hf_models.make_gptj, "llama": hf_models.make_llama}
KINDS = ("gptj", "gptj-fused", "llama")


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that gives the model of a kind, made once: the fused one is another copy."""

    @cache
    def load(kind: str) -> Any:
        family = kind.partition("-")[0]
        folder: Path = MAKERS[family](tmp_path_factory.mktemp(kind))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if kind.endswith("fused"):
            assert fused_gptj.fuse(model)
        return model

    return load


@pytest.fixture(scope="session")
def reference(model_of: Any) -> Any:
    """Return a function that gives the tokens that the untouched model generates for one text alone."""

    @cache
    def tokens(kind: str, ids: tuple[int, ...], count: int) -> list[int]:
        model = model_of(kind.partition("-")[0])
        given_ids = torch.tensor([list(ids)])
        answer = model.generate(
            given_ids, attention_mask=torch.ones_like(given_ids), max_new_tokens=count, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return answer[0, len(ids) :].tolist()

    return tokens


def prompt(length: int, first: int = 3) -> tuple[int, ...]:
    return tuple((first + 7 * i) % 300 + 1 for i in range(length))


def steps(model: Any, *, slots: int = 4, max_length: int = 96) -> GraphStep:
    return GraphStep(model, slots=slots, max_length=max_length, compile_layers=False)


def advance(step: GraphStep, active: Sequence[int], count: int) -> dict[int, list[int]]:
    """Take `count` tokens for each slot, each step begun before the one before has ended."""
    found: dict[int, list[int]] = {slot: [] for slot in active}
    step.begin(active)
    for index in range(count):
        if index + 1 < count:
            step.begin(active)
        tokens, log_probs = step.end()
        assert all(value <= 0 for value in log_probs.values())
        for slot in active:
            found[slot].append(tokens[slot])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_slots_that_run_together_give_each_text_its_own_tokens(
    model_of: Any, reference: Any, kind: str
) -> None:
    step = steps(model_of(kind))
    prompts = {3: prompt(5), 0: prompt(17, 90), 2: prompt(40, 11)}
    found = {slot: [int(step.prefill(slot, ids).argmax())] for slot, ids in prompts.items()}
    for slot, tokens in advance(step, [3, 0, 2], 11).items():
        found[slot] += tokens
    step.close()
    assert found == {slot: reference(kind, ids, 12) for slot, ids in prompts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_taken_together_or_in_pieces_give_the_same_tokens(
    model_of: Any, reference: Any, kind: str
) -> None:
    step = steps(model_of(kind), slots=TOGETHER + 3)
    prompts = {slot: prompt(3 + slot, 20 * slot) for slot in range(TOGETHER + 2)}
    prompts[1] = prompt(70)
    step.prefill_many(prompts)
    first = {slot: int(step.logits(slot).argmax()) for slot in prompts}
    pieces = prompt(50, 8)
    step.prefill(TOGETHER + 2, pieces[:20])
    advance(step, [0], 2)  # another text goes on between the pieces
    step.prefill(TOGETHER + 2, pieces[20:], 20)
    found = advance(step, [5, 1, TOGETHER + 2], 6)
    step.close()
    assert first == {slot: reference(kind, ids, 1)[0] for slot, ids in prompts.items()}
    assert found[5] == reference(kind, prompts[5], 7)[1:]
    assert found[1] == reference(kind, prompts[1], 7)[1:]
    assert found[TOGETHER + 2] == reference(kind, pieces, 7)[1:]


def test_prompts_that_join_do_not_touch_a_text_that_runs(model_of: Any, reference: Any) -> None:
    step = steps(model_of("gptj-fused"), slots=TOGETHER)
    step.prefill(0, prompt(9))
    found = advance(step, [0], 3)[0]
    step.prefill_many({slot: prompt(4, slot) for slot in (5, 6)})  # a call of eight: row 0 fills it up
    found += advance(step, [0], 3)[0]
    step.close()
    assert found == reference("gptj", prompt(9), 7)[1:]


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_texts_join_and_leave_at_any_time(model_of: Any, reference: Any, data: st.DataObject) -> None:
    step = steps(model_of("gptj-fused"), slots=5)
    running: dict[int, tuple[tuple[int, ...], list[int]]] = {}
    for _ in range(data.draw(st.integers(2, 12))):
        free = [slot for slot in range(5) if slot not in running]
        if free and data.draw(st.booleans()):
            slot, ids = data.draw(st.sampled_from(free)), prompt(data.draw(st.integers(1, 30)), len(running))
            running[slot] = (ids, [int(step.prefill(slot, ids).argmax())])
        if running and data.draw(st.booleans()):
            active = data.draw(st.lists(st.sampled_from(sorted(running)), min_size=1, unique=True))
            for slot, tokens in advance(step, active, data.draw(st.integers(1, 3))).items():
                running[slot][1].extend(tokens)
        if running and data.draw(st.booleans()):
            slot = data.draw(st.sampled_from(sorted(running)))
            ids, tokens = running.pop(slot)
            step.release(slot)
            assert tokens == reference("gptj", ids, 48)[: len(tokens)]
    step.close()
    for ids, tokens in running.values():
        assert tokens == reference("gptj", ids, 48)[: len(tokens)]


def test_a_given_token_replaces_the_greedy_one(model_of: Any) -> None:
    model = model_of("llama")
    step = steps(model, slots=2, max_length=32)
    step.prefill(1, [5, 6])
    logits = step.decode([0, 77], [0, 2], [1])
    kept = step.logits(1).clone()
    step.close()
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 77]])).logits[0, -1]
    torch.testing.assert_close(logits[1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-4)


def test_the_last_place_of_a_slot_is_used(model_of: Any, reference: Any) -> None:
    step = steps(model_of("gptj-fused"), slots=2, max_length=24)
    step.prefill(0, prompt(20))
    found = advance(step, [0], 4)[0]
    step.close()
    assert found == reference("gptj", prompt(20), 5)[1:]


def test_steps_in_flight_are_bounded(model_of: Any) -> None:
    step = steps(model_of("llama"), slots=1)
    step.prefill(0, [1, 2])
    for _ in range(IN_FLIGHT):
        step.begin([0])
    with pytest.raises(RuntimeError, match="end one first"):
        step.begin([0])
    step.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_step_leaves_the_model_as_it_was(model_of: Any, reference: Any, kind: str) -> None:
    model = model_of(kind)
    layers = step_layers.CompiledLayers(model)  # nothing is compiled before it is called
    step = GraphStep(model, slots=2, max_length=32, compile_layers=layers)
    step.close()
    step.close()
    ids = torch.tensor([list(prompt(6))])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert answer[0, 6:].tolist() == reference(kind, prompt(6), 5)


def test_fused_weights_are_there_once(model_of: Any) -> None:
    block = model_of("gptj-fused").transformer.h[0]
    assert block.w_in.shape == (3 * block.width + block.b_in.shape[0], block.width)
    assert {name for name, _ in block.named_parameters()} == {
        "ln_1.weight", "ln_1.bias", "w_in", "w_out", "b_in", "b_out",
    }  # fmt: skip


def test_only_gptj_is_fused(model_of: Any) -> None:
    assert not fused_gptj.fuse(model_of("llama"))


def test_blocks_are_fused_once_and_only_while_their_weights_are_plain(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        hf_models.make_gptj(tmp_path), dtype=torch.float32
    ).requires_grad_(requires_grad=False)
    block = model.transformer.h[-1]
    block.mlp.fc_in.weight.data = block.mlp.fc_in.weight.data.to(torch.int8)
    assert not fused_gptj.fuse(model)
    block.mlp.fc_in.weight.data = block.mlp.fc_in.weight.data.float()
    assert fused_gptj.fuse(model)
    assert not fused_gptj.fuse(model)


def test_sizes_end_with_the_largest() -> None:
    assert sizes_up_to((1, 2, 4, 8), 6) == (1, 2, 4, 6)
    assert sizes_up_to((256, 512), 100) == (100,)
    assert choose_size((1, 2, 4, 6), 3) == 4

"""The self-check passes a model that is served right and finds planted faults, whole or cut to two layers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frame_python.handlers.cut_models import cut_model
from frame_python.handlers.references import Reference, take_reference
from frame_python.handlers.replays import GenerateRunner, Runner, Said, StepRunner, Text
from frame_python.handlers.self_check import CheckSettings, SelfCheck, SelfCheckError
from frame_python.handlers.stepping import EagerStepper
from frame_python.handlers.verdicts import QUANTIZED, TOLERANCES, Report
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests import hf_models

CPU = torch.device("cpu")
SLOTS = 6
MAKERS = {"gptj": hf_models.make_gptj, "llama": hf_models.make_llama}
Fault = Callable[[Any], None]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function that gives a fresh model of a family with four layers."""

    @cache
    def folder(family: str) -> Path:
        layers = {"n_layer": 4} if family == "gptj" else {"num_hidden_layers": 4}
        return MAKERS[family](tmp_path_factory.mktemp(family), **layers)

    return lambda family: AutoModelForCausalLM.from_pretrained(folder(family), dtype=torch.float32).eval()


class OffByOne(EagerStepper):
    """Has one place more in the cache than tokens: each later token comes one position too late."""

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> torch.Tensor:
        """Put the last token there twice."""
        logits = super().prefill(slot, ids, start).clone()
        super().prefill(slot, ids[-1:], start + len(ids))
        return logits


def swap_shards(model: Any) -> None:
    """Exchange the halves of one query projection, as if two ranks had each other's part."""
    for name, parameter in model.named_parameters():
        if name.endswith("q_proj.weight"):
            parameter.data = torch.cat(parameter.data.chunk(2)[::-1])
            return


def turn_wrongly(model: Any) -> None:
    """Let queries and keys of one layer be turned by positions that are off by one for queries alone."""
    for name, _ in model.named_parameters():
        if name.endswith("q_proj.weight"):
            attention = model.get_submodule(name.rsplit(".", 2)[0])
            projection = attention.q_proj
            attention.q_proj = _Shifted(projection)
            return


class _Shifted(torch.nn.Module):
    """A projection whose heads come out turned by one position, as GPT-J turns its first 16 dimensions."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Turn each pair by its frequency."""
        heads = self.inner(hidden).unflatten(-1, (4, -1)).clone()
        angles = 10000 ** -(torch.arange(0, 16, 2) / 16)
        even, odd = heads[..., 0:16:2].clone(), heads[..., 1:16:2].clone()
        heads[..., 0:16:2] = even * angles.cos() - odd * angles.sin()
        heads[..., 1:16:2] = odd * angles.cos() + even * angles.sin()
        return heads.flatten(-2)


def check(
    model: Any,
    *,
    fits: bool = True,
    fault: Fault | None = None,
    runner: Callable[[Any], Runner] | None = None,
    **settings: Any,
) -> Report:
    """Check a model as the engines do: before, transform, after."""

    def build(transformed: Any) -> Runner:
        if fault is not None:
            fault(transformed)
        if runner is not None:
            return runner(transformed)
        return StepRunner(EagerStepper(transformed, slots=SLOTS, max_length=64))

    defaults = {"tolerance": TOLERANCES["float32"], "model": "m", "path": "eager"}
    checked = SelfCheck(CheckSettings(**{"cache": Path("/nonexistent"), **defaults, **settings}))
    checked.look_before(model, device=CPU, fits=fits, build=build, max_length=64)
    if checked.report is None:
        return checked.look_after(build(copy.deepcopy(model)))
    return checked.look_after(Unused())


class Unused:
    """What is never run, because there is a verdict already."""

    largest = 1

    def run(self, texts: Sequence[Text], has_time: Callable[[], bool]) -> Said:
        """Fail."""
        raise AssertionError


@pytest.mark.parametrize("family", list(MAKERS))
def test_model_served_right_passes_whole_and_cut(
    load: Callable[[str], Any], family: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole, cut = check(load(family)), check(load(family), fits=False)
    assert (whole.result, whole.reason) == ("passed", "")
    assert whole.tokens > 100
    assert cut.result == "reduced"
    assert "does not fit" in cut.reason
    assert cut.tokens > 100
    assert "self_check model=m result=passed tokens=" in caplog.text


@pytest.mark.parametrize("fits", [True, False], ids=["full", "reduced"])
@pytest.mark.parametrize(
    "fault",
    [
        {"fault": swap_shards},
        {"fault": turn_wrongly},
        {"runner": lambda model: StepRunner(OffByOne(model, slots=SLOTS, max_length=64))},
    ],
    ids=["swapped shard", "wrong rotary offset", "cache off by one"],
)
def test_planted_fault_is_found(load: Callable[[str], Any], fault: dict[str, Any], fits: bool) -> None:
    with pytest.raises(SelfCheckError, match=r"self-check failed on path eager: .*(agree|differ)") as raised:
        check(load("gptj"), fits=fits, **fault)
    assert raised.value.report.result == "failed"


def test_model_that_works_alone_but_not_in_a_batch_is_found(load: Callable[[str], Any]) -> None:
    class OnlyFirst(EagerStepper):
        """Gives every slot the first one's logits."""

        def logits(self, slot: int) -> torch.Tensor:
            return super().logits(slot * 0)

    with pytest.raises(SelfCheckError, match="slot 1 of a batch of 6"):
        check(load("llama"), runner=lambda m: StepRunner(OnlyFirst(m, slots=SLOTS, max_length=64)))


def test_generate_is_checked_as_static_batching_calls_it(load: Callable[[str], Any]) -> None:
    def runner(model: Any) -> Runner:
        model.generation_config.repetition_penalty = 3.0  # not the model's own choice of tokens
        return GenerateRunner(model, device=CPU, largest=4, pad=0)

    assert check(load("gptj"), runner=runner).result == "passed"
    with pytest.raises(SelfCheckError):
        check(load("gptj"), runner=runner, fault=swap_shards)


def test_what_raises_has_failed_with_its_reason(load: Callable[[str], Any]) -> None:
    def broken(model: Any) -> None:
        model.forward = lambda **_: 1 / 0

    with pytest.raises(SelfCheckError, match="ZeroDivisionError"):
        check(load("gptj"), fault=broken)


def test_rank_of_several_that_raises_ends_its_process(load: Callable[[str], Any]) -> None:
    def broken(model: Any) -> None:
        model.forward = lambda **_: 1 / 0

    with pytest.raises(ZeroDivisionError):
        check(load("gptj"), fault=broken, is_alone=False)


def test_other_ranks_take_the_first_ones_texts_and_verdict(load: Callable[[str], Any]) -> None:
    said: list[Any] = []

    def send(value: Any) -> Any:
        said.append(value)
        return value

    check(load("gptj"), share=send, is_alone=False)
    received = iter(said)
    report = check(load("gptj"), share=lambda _: next(received), is_alone=False, is_first=False)
    assert report.result == "passed"
    assert next(received, None) is None


def test_no_time_is_no_pass(load: Callable[[str], Any]) -> None:
    report = check(load("gptj"), timeout=0.0)
    assert report.result == "not_run"
    assert "no time" in report.reason


def test_too_few_layers_to_cut_is_not_run(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(hf_models.make_gptj(tmp_path), dtype=torch.float32)
    report = check(model, fits=False)
    assert report.result == "not_run"
    assert "2 layers" in report.reason


def test_pass_is_kept_under_its_key_and_a_failure_is_not(load: Callable[[str], Any], tmp_path: Path) -> None:
    assert check(load("gptj"), key="k", cache=tmp_path).result == "passed"
    # Nothing is run any more: a model with a fault would show.
    assert check(load("gptj"), key="k", cache=tmp_path, fault=swap_shards).result == "passed"
    for _ in range(2):
        with pytest.raises(SelfCheckError):
            check(load("gptj"), key="other", cache=tmp_path, fault=swap_shards)
    assert [path.name for path in tmp_path.iterdir()] == ["k.json"]


def test_saved_reference_serves_a_model_that_does_not_fit(load: Callable[[str], Any], tmp_path: Path) -> None:
    reference = take_reference(load("llama"), device=CPU, has_time=lambda: True)
    assert reference is not None
    path = tmp_path / "new" / "reference.safetensors"
    reference.save(path)
    again = Reference.load(path)
    assert (again.prompts, again.tokens) == (reference.prompts, reference.tokens)
    tolerance = TOLERANCES["float16"]  # it is saved as such
    assert check(load("llama"), fits=False, saved_reference=path, tolerance=tolerance).result == "passed"
    with pytest.raises(SelfCheckError):
        check(load("llama"), fits=False, saved_reference=path, tolerance=tolerance, fault=swap_shards)


def test_reference_is_what_the_model_generates(load: Callable[[str], Any]) -> None:
    model = load("gptj")
    reference = take_reference(model, device=CPU, has_time=lambda: True, new_tokens=8)
    assert reference is not None
    for prompt, tokens in zip(reference.prompts, reference.tokens, strict=True):
        given = torch.tensor([prompt])
        answer = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
        assert answer[0, len(prompt) :].tolist() == tokens


def test_cut_model_has_first_and_last_layer_and_leaves_the_model_alone(load: Callable[[str], Any]) -> None:
    model = load("llama")
    before = [parameter.clone() for parameter in model.parameters()]
    cut = cut_model(model)
    assert (len(cut.model.layers), cut.config.num_hidden_layers) == (2, 2)
    assert (len(model.model.layers), model.config.num_hidden_layers) == (4, 4)
    assert torch.equal(cut.model.layers[1].mlp.up_proj.weight, model.model.layers[3].mlp.up_proj.weight)
    cut.model.layers[1].mlp.up_proj.weight.data.zero_()
    assert all(torch.equal(kept, now) for kept, now in zip(before, model.parameters(), strict=True))
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


def test_quantized_model_may_differ_a_little(load: Callable[[str], Any]) -> None:
    def quantize(model: Any) -> None:
        for parameter in model.parameters():
            step = parameter.data.abs().max() / 127
            parameter.data = (parameter.data / step).round() * step

    assert check(load("llama"), fault=quantize, tolerance=QUANTIZED).result == "passed"
    with pytest.raises(SelfCheckError):
        check(load("llama"), fault=quantize)
    with pytest.raises(SelfCheckError):
        check(load("llama"), fault=swap_shards, tolerance=QUANTIZED)


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_encoders_are_compared_alone_and_padded(tmp_path: Path, head: str) -> None:
    maker = AutoModel if head == "Model" else AutoModelForSequenceClassification
    folder = hf_models.make_bert(tmp_path, head=head)

    def run(fault: Fault | None) -> Report:
        model = maker.from_pretrained(folder, dtype=torch.float32).eval()
        checked = SelfCheck(
            CheckSettings(
                model="m", path="eager", tolerance=TOLERANCES["float32"], cache=Path("/nonexistent")
            )
        )
        checked.look_before_encoder(model, device=CPU)
        if fault is not None:
            fault(model)
        return checked.look_after_encoder(model, device=CPU)

    def swap(model: Any) -> None:
        layer = next(m for n, m in model.named_modules() if n.endswith("attention.self.query"))
        layer.weight.data = torch.cat(layer.weight.data.chunk(2)[::-1])

    assert run(None).result == "passed"
    with pytest.raises(SelfCheckError):
        run(swap)

"""Models without code on one rank: which path is served after its self-check, and what refusals say."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from frame.api import Done, EngineContext, Model, ModelSpec, Part, Request, Response, SequenceModel
from frame.contract.properties import Properties
from frame_deepspeed.built_in import load_built_in
from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.quantizing import quantize_weights
from frame_deepspeed.sharding import ShardSettings
from transformers import AutoModelForCausalLM

from tests import hf_models

CONTEXT = EngineContext(devices=("cpu",))


@pytest.fixture(scope="session")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a GPT-J of four layers."""
    return hf_models.make_gptj(tmp_path_factory.mktemp("gptj"), n_layer=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep passes in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, transform: Callable[[Any, ShardSettings], Any] | None = None, **options: Any) -> Model:
    """Load a folder with options as the engine would."""
    given = DeepSpeedOptions(**{"max_rolling_batch_size": 4, "max_tokens": 128, **options})
    spec = ModelSpec(
        name="m", version=None, path=str(folder), model_file=None, options=given,
        properties={key: str(value) for key, value in options.items()},
    )  # fmt: skip
    return load_built_in(spec, CONTEXT, **({} if transform is None else {"transform": transform}))


def generate(model: Model) -> str:
    """Return 8 greedy tokens after a prompt."""
    body = {"inputs": "the capital", "parameters": {"max_new_tokens": 8, "return_full_text": False}}
    part = Part("data", json.dumps(body).encode())
    properties = Properties({"content-type": "application/json"})
    request = Request(id="r", properties=properties, parts=(part,))
    if not isinstance(model, SequenceModel):
        (answer,) = model.predict([request])
        assert isinstance(answer, Response)
        return str(json.loads(bytes(answer.parts[0].data))[0]["generated_text"])
    model.admit(1, request)
    while True:
        for event in model.step():
            if isinstance(event, Done):
                assert event.response is not None
                return str(json.loads(bytes(event.response.parts[0].data))["generated_text"])


def wrong_when_injected(model: Any, settings: ShardSettings) -> Any:
    """Be kernels that say something else."""
    if settings.kernel_inject:
        for name, parameter in model.named_parameters():
            if name.endswith("q_proj.weight"):
                parameter.data = parameter.data.flip(0)
    return model


def test_path_that_says_something_else_is_left_for_the_next(
    gptj: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = load(gptj, wrong_when_injected, path="inject")
    assert "self_check_falls_back model=m from=inject to=eager" in caplog.text
    assert generate(model) == generate(load(gptj))


def test_load_fails_with_cause_and_remedy_when_asked_to(gptj: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"option.replace_with_kernel_inject: .*tokens agree.*replace_with_kernel_inject=false",
    ):
        load(gptj, wrong_when_injected, path="inject", on_self_check="fail")


def test_last_path_has_none_to_fall_back_to(gptj: Path) -> None:
    def always_wrong(model: Any, settings: ShardSettings) -> Any:
        return wrong_when_injected(model, ShardSettings(degree=settings.degree, kernel_inject=True))

    with pytest.raises(ValueError, match=r"option.quantize=dynamic_int8: .*on_self_check=off serves it"):
        load(gptj, always_wrong, quantize="dynamic_int8")


def test_check_that_is_off_lets_anything_through(gptj: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = load(gptj, wrong_when_injected, path="inject", on_self_check="off")
    assert generate(model) != generate(load(gptj))
    assert "result=not_run reason='option.on_self_check=off'" in caplog.text


def test_pass_is_kept_for_the_next_start(gptj: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def nothing(model: Any, settings: ShardSettings) -> Any:
        del settings
        return model

    reports = [load(gptj, nothing, path="inject").self_check for _ in range(2)]  # type: ignore[attr-defined]
    assert [report["result"] for report in reports] == ["passed", "passed"]
    assert len(list((cache / "frame" / "self_check").glob("*.json"))) == 1
    assert reports[1]["seconds"] < reports[0]["seconds"]


def test_untouched_model_is_not_checked_and_says_so(gptj: Path) -> None:
    report = load(gptj).self_check  # type: ignore[attr-defined]
    assert (report["result"], report["reason"]) == ("not_run", "nothing was done to the model")


def test_steps_of_the_graph_path_are_checked_uncompiled_on_the_cpu(gptj: Path) -> None:
    model = load(gptj, path="graph")
    assert model.self_check["result"] == "passed"  # type: ignore[attr-defined]
    assert generate(model) == generate(load(gptj))


def test_largest_batch_is_the_injected_models_first_call(gptj: Path) -> None:
    rows: list[int] = []

    def watched(model: Any, settings: ShardSettings) -> Any:
        if settings.kernel_inject:
            model.register_forward_pre_hook(
                lambda _, __, given: rows.append(given["input_ids"].shape[0]), with_kwargs=True
            )
        return model

    for _ in range(2):  # also when its pass was kept, and nothing is checked
        rows.clear()
        load(gptj, watched, path="inject", on_self_check="fail")
        assert rows[0] == max(rows) == 4


def test_static_batching_is_checked_through_generate(gptj: Path) -> None:
    with pytest.raises(ValueError, match="tokens agree"):
        load(gptj, wrong_when_injected, path="inject", on_self_check="fail", rolling_batch="disable")


def test_encoder_is_checked(tmp_path: Path) -> None:
    def wrong(model: Any, settings: ShardSettings) -> Any:
        del settings
        layer = next(m for n, m in model.named_modules() if n.endswith("attention.self.query"))
        layer.weight.data = layer.weight.data.flip(0)
        return model

    folder = hf_models.make_bert(tmp_path / "bert")
    assert load(folder, lambda model, _: model, path="inject").self_check["result"] == "passed"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"differ|agree"):
        load(folder, wrong, path="inject", on_self_check="fail", dtype="fp32")


@pytest.mark.parametrize("options", [{"quantize": "dynamic_int8"}, {"dtype": "int8"}])
def test_int8_weights_take_a_quarter_and_pass_their_check(gptj: Path, options: dict[str, str]) -> None:
    model = load(gptj, **options)
    assert model.self_check["result"] == "passed"  # type: ignore[attr-defined]
    plain = AutoModelForCausalLM.from_pretrained(gptj, dtype=torch.float32)
    before = plain.transformer.h[0].mlp.fc_in.weight.clone()
    assert quantize_weights(plain) == 4 * 6
    layer = plain.transformer.h[0].mlp.fc_in
    assert layer.parametrizations.weight.original0.dtype == torch.int8
    assert (layer.weight - before).abs().max() <= before.abs().max() / 127
    assert plain.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "smoothquant"}, "option.quantize=smoothquant: there is dynamic_int8"),
        ({"checkpoint": "c.json"}, "option.checkpoint: .*option.model_id"),
        ({"deepspeed_config_path": "no.json"}, "option.deepspeed_config_path=no.json: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused(gptj: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(gptj, **options)

"""What the built-in handler loads, and what it says of folders and options that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from frame.api import EngineContext, ModelSpec, RequestError
from frame_python.engine import PythonEngine
from frame_python.handlers.agreement import agreement, make_prompts, references
from frame_python.handlers.built_in import build_text_generation, uses_rolling_batch
from frame_python.handlers.loading import choose_dtype, load_transformer, torch_device
from frame_python.handlers.options import TransformersOptions, transformers_options
from frame_python.handlers.parameters import Parameters, parse_parameters
from frame_python.handlers.stepping import EagerStepper, SoloStepper
from frame_python.handlers.stopping import StopText
from frame_python.handlers.tasks import infer_task
from frame_python.options import PythonOptions
from hypothesis import given
from hypothesis import strategies as st

from tests import hf_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_models.make_gptj(tmp_path_factory.mktemp("gptj"))


@pytest.fixture
def folder(gptj: Path, tmp_path: Path) -> Path:
    """Return a copy of a model's folder, to be spoiled."""
    return Path(shutil.copytree(gptj, tmp_path / "model"))


def load(path: Path, *, is_max_tokens_set: bool = False, prepare: Any = None, **options: Any) -> Any:
    return load_transformer(
        TransformersOptions(**options), str(path), CPU, is_max_tokens_set=is_max_tokens_set, prepare=prepare
    )


def test_a_folder_is_loaded_as_its_configuration_says(gptj: Path, tmp_path: Path):
    loaded = load(tmp_path, model_id=str(gptj))
    assert (loaded.task, loaded.dtype, loaded.max_tokens) == ("text-generation", torch.float32, 512)
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.tokenizer.padding_side == "left"
    assert next(loaded.model.parameters()).dtype is torch.float32
    assert not loaded.model.training
    assert load(gptj, dtype="bf16", max_tokens=64).max_tokens == 64


def test_prepare_replaces_the_model(gptj: Path):
    seen = []

    def prepare(loaded: Any) -> Any:
        seen.append(loaded.task)
        return loaded.model.to(torch.bfloat16)

    assert next(load(gptj, prepare=prepare).model.parameters()).dtype is torch.bfloat16
    assert seen == ["text-generation"]


@pytest.mark.parametrize(
    ("missing", "options", "said"),
    [
        ("config.json", {}, "no config.json"),
        ("model.safetensors", {}, "no weights"),
        ("tokenizer*", {}, "no tokenizer"),
        (None, {"model_id": "gpt2"}, "option.model_id=gpt2: no such folder; nothing is downloaded"),
        (None, {"task": "poetry"}, "option.task=poetry"),
        (None, {"dtype": "fp64"}, "option.dtype=fp64"),
        (None, {"dtype": "fp16"}, "not on the CPU"),
        (None, {"dtype": "int8"}, "DeepSpeed"),
        (None, {"max_tokens": 4096, "is_max_tokens_set": True}, "made for 512"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, missing: str | None, options: dict[str, Any], said: str):
    for file in folder.glob(missing) if missing else ():
        file.unlink()
    with pytest.raises(ValueError, match=said):
        load(folder, **options)


def test_a_folder_that_names_no_known_architecture_needs_a_task(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GPTJForPoetry"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"GPTJForPoetry has no known task; set option\.task"):
        load(folder)
    assert load(folder, task="text-generation").task == "text-generation"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("BertModel", "text-embedding"),
    ],
)
def test_the_task_follows_from_the_architecture(architecture: str, task: str):
    assert infer_task([architecture]) == task
    with pytest.raises(ValueError, match="names no architecture"):
        infer_task(None)


def test_options_of_an_engine_contain_the_handlers():
    options = PythonOptions(max_tokens=7, rolling_batch="disable")
    assert transformers_options(options) == TransformersOptions(max_tokens=7, rolling_batch="disable")
    assert transformers_options(object()) == TransformersOptions()
    assert [uses_rolling_batch(TransformersOptions(rolling_batch=how), 1) for how in ("auto", "disable")] == [
        True,
        False,
    ]
    assert not uses_rolling_batch(TransformersOptions(), 8)
    assert choose_dtype(None, CPU) is torch.float32
    assert torch_device("gpu1") == torch.device("cuda:1")


def test_several_devices_and_missing_ones_are_refused(gptj: Path):
    def engine(options: PythonOptions, *devices: str) -> Any:
        spec = ModelSpec(
            name="m", version=None, path=str(gptj), model_file=None, options=options, properties={}
        )
        return PythonEngine(EngineContext(devices=devices)).load(spec)

    with pytest.raises(ValueError, match="engine=DeepSpeed"):
        engine(PythonOptions(), "gpu0", "gpu1")
    with pytest.raises(ValueError, match="engine=DeepSpeed"):
        engine(PythonOptions(tensor_parallel_degree="2"), "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            engine(PythonOptions(), "gpu0")


def test_memory_that_runs_out_names_the_options_to_lower(gptj: Path):
    class Greedy(EagerStepper):
        def prefill(self, slot: int, ids: Any, start: int = 0) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loaded = load(gptj, max_tokens=64)
    with pytest.raises(RequestError, match=r"lower option\.max_rolling_batch_size") as caught:
        build_text_generation(loaded, TransformersOptions(), [Greedy])
    assert caught.value.status == 507


def test_an_unknown_formatter_is_refused_at_load(gptj: Path):
    options = TransformersOptions(output_formatter="json_chat", max_rolling_batch_size=2, max_tokens=64)
    with pytest.raises(ValueError, match=r"option\.output_formatter=json_chat"):
        build_text_generation(load(gptj, max_tokens=64), options, [EagerStepper])


def test_sliding_windows_do_not_run_in_static_slots(tmp_path: Path):
    from frame_python.handlers.built_in import choose_stepper

    folder = hf_models.make_llama(tmp_path / "m")
    loaded = load(folder, max_tokens=64)
    loaded.model.config.sliding_window = 32
    assert isinstance(choose_stepper(loaded, 2, [EagerStepper, SoloStepper]), SoloStepper)


@pytest.mark.parametrize("slots", [1, 3])
def test_agreement_finds_planted_faults(gptj: Path, slots: int):
    loaded = load(gptj, max_tokens=64)
    expected = references(loaded.model, make_prompts(hf_models.VOCABULARY))
    stepper = EagerStepper(loaded.model, slots=3, max_length=64)
    found = agreement(stepper, expected, slots=slots)
    assert found.is_full
    assert found.compared >= 5 * slots
    attention = loaded.model.transformer.h[1].attn
    attention.embed_positions = attention.embed_positions.roll(1, 0)  # a rotary offset, in one layer only
    with torch.no_grad():
        attention.k_proj.weight[:32] = attention.k_proj.weight[32:64].clone()  # a swapped shard
    assert not agreement(stepper, expected, slots=slots).is_full


def test_parameters_have_djls_defaults():
    assert parse_parameters({}) == Parameters(
        max_new_tokens=30, do_sample=False, temperature=1, top_k=0, top_p=1, typical_p=1, repetition_penalty=1
    )
    assert parse_parameters({"stop": "a", "seed": 3.0}) == Parameters(stop_sequences=("a",), seed=3)
    assert not parse_parameters({"do_sample": True, "temperature": 0}).samples


@given(
    st.lists(st.text("ab", max_size=3), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_text_is_released_up_to_the_stop_that_ends_first(pieces: list[str], stops: list[str]):
    stopping = StopText(stops)
    released = "".join(stopping.feed(piece) for piece in pieces) + stopping.flush()
    text = "".join(pieces)
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    assert stopping.has_stopped == bool(ends)
    if not ends:
        assert released == text
        return
    first = min(end for end, _ in ends)
    assert released in {text[:begin] for end, begin in ends if end >= first}
    assert text.startswith(released)

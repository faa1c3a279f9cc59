"""What frame-deepspeed does to torch and DeepSpeed: when they are imported, and not before."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from frame_deepspeed.after_import import after_import
from frame_deepspeed.collectives import choose_all_reduce, own_device
from frame_deepspeed.compat import find_attributes_on_module, known_faults, warn_of_known_faults
from frame_deepspeed.seeding import combined_seed, seed_generators

# --- after_import -------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the name of a module that can be imported and was not."""
    name = f"late_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    sys.modules.pop(name, None)


def test_action_waits_for_the_import_and_sees_the_whole_module(module: str) -> None:
    seen: list[int] = []
    after_import(module, lambda found: seen.append(found.VALUE))
    after_import(module, lambda found: seen.append(found.VALUE + 1))
    assert module not in sys.modules
    assert seen == []
    imported = __import__(module)
    assert seen == [1, 2]
    assert type(imported.__spec__.loader).__module__ != "frame_deepspeed.after_import"


def test_action_is_not_lost_when_somebody_only_asks_whether_it_is_installed(module: str) -> None:
    import importlib.util

    seen: list[int] = []
    after_import(module, lambda found: seen.append(found.VALUE))
    assert importlib.util.find_spec(module) is not None
    __import__(module)
    assert seen == [1]


def test_action_runs_at_once_for_a_module_that_is_there() -> None:
    seen: list[ModuleType] = []
    after_import("sys", seen.append)
    assert seen == [sys]


def test_module_that_is_missing_stays_missing() -> None:
    after_import("frame_no_such_module", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="frame_no_such_module"):
        __import__("frame_no_such_module")


# --- compat -------------------------------------------------------------------------------------


def engine_module(**attributes: Any) -> Any:
    """Return a stand-in for deepspeed.inference.engine."""

    class InferenceEngine(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.module = model

    for name, value in attributes.items():
        setattr(InferenceEngine, name, value)
    found: Any = ModuleType("engine")
    found.InferenceEngine = InferenceEngine
    return found


def test_attributes_are_found_on_the_model_inside(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    module = engine_module()
    model = torch.nn.Linear(2, 3)
    engine = module.InferenceEngine(model)
    with pytest.raises(AttributeError):
        _ = engine.in_features
    find_attributes_on_module(module)
    assert (engine.in_features, engine.out_features) == (2, 3)
    assert engine.module is model
    assert caplog.text.count("deepspeed_mended") == 1
    with pytest.raises(AttributeError, match="no_such"):
        _ = engine.no_such


def test_version_that_needs_no_mending_is_left_alone() -> None:
    module = engine_module(device="cpu")
    before = module.InferenceEngine.__getattr__
    find_attributes_on_module(module)
    assert module.InferenceEngine.__getattr__ is before
    find_attributes_on_module(ModuleType("empty"))


def test_engine_without_a_model_raises_as_before() -> None:
    module = engine_module()
    find_attributes_on_module(module)
    engine = module.InferenceEngine(torch.nn.Linear(1, 1))
    del engine.module
    with pytest.raises(AttributeError, match="module"):
        _ = engine.device


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"transformers": "5.23.0", "kernel_inject": True}, ["wrong text", "largest batch"]),
        ({"transformers": "4.44.2", "kernel_inject": True}, ["largest batch"]),
        ({"transformers": "5.23.0.dev0", "model_type": "bloom", "degree": 2}, ["BLOOM"]),
        ({"transformers": "4.44.2", "model_type": "bloom", "degree": 2}, []),
        ({"transformers": "5.23.0", "model_type": "bloom"}, []),
        ({"transformers": "5.23.0", "degree": 4}, []),
    ],
)
def test_pairs_known_to_be_wrong(call: dict[str, Any], words: list[str]) -> None:
    given = {"kernel_inject": False, "degree": 1, "model_type": "gptj", **call}
    found = list(known_faults(**given))
    assert len(found) == len(words)
    assert all(word in fault for word, fault in zip(words, found, strict=True))


def test_handler_is_warned_once_and_its_call_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    deepspeed: Any = ModuleType("deepspeed")
    calls: list[Any] = []
    deepspeed.init_inference = lambda model, config=None, **given: calls.append((model, config, given))
    warn_of_known_faults(deepspeed)
    for _ in range(2):
        deepspeed.init_inference("m", mp_size=2, replace_with_kernel_inject=True)
        deepspeed.init_inference("m", {"kernel_inject": True, "tensor_parallel": {"tp_size": 2}})
    assert calls[0] == ("m", None, {"mp_size": 2, "replace_with_kernel_inject": True})
    assert calls[1][1] == {"kernel_inject": True, "tensor_parallel": {"tp_size": 2}}
    assert caplog.text.count("deepspeed_known_fault an injected model") == 1


# --- collectives --------------------------------------------------------------------------------


ALL = {"has_compiler": True, "has_ninja": True, "has_gpu": False}
TWO = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "lacks", "word"),
    [
        ({"WORLD_SIZE": "2"}, {}, "LOCAL_SIZE"),
        ({"WORLD_SIZE": "4", "LOCAL_SIZE": "2"}, {}, "one host"),
        (TWO, {"has_compiler": False}, "compiler"),
        (TWO, {"has_ninja": False}, "ninja"),
        (TWO, {"has_gpu": True}, "CPU"),
    ],
)
def test_shared_memory_only_where_it_works(
    environ: dict[str, str], lacks: dict[str, bool], word: str
) -> None:
    chosen, reason = choose_all_reduce("auto", environ=environ, **{**ALL, **lacks})
    assert chosen == "gloo"
    assert word in reason
    with pytest.raises(ValueError, match=r"option.all_reduce=shm: .*set option.all_reduce=gloo"):
        choose_all_reduce("shm", environ=environ, **{**ALL, **lacks})


def test_shared_memory_is_the_default_where_it_works() -> None:
    assert choose_all_reduce("auto", environ=TWO, **ALL)[0] == "shm"
    assert choose_all_reduce("shm", environ=TWO, **ALL)[0] == "shm"
    assert choose_all_reduce("gloo", environ=TWO, **ALL)[0] == "gloo"


def test_rank_takes_its_own_device_of_the_groups() -> None:
    group = ("gpu0", "gpu1")
    assert [own_device(group, {"LOCAL_RANK": str(rank)}) for rank in (0, 1)] == ["gpu0", "gpu1"]
    assert own_device(("gpu0",), {"LOCAL_RANK": "1"}) == "gpu0"  # where each rank sees its own alone
    assert own_device(("cpu",), {"LOCAL_RANK": "3"}) == "cpu"
    assert own_device((), {}) == "cpu"


# --- seeding ------------------------------------------------------------------------------------


def test_seed_of_one_request_is_its_own_and_of_several_depends_on_all_in_order() -> None:
    assert combined_seed([7]) == 7
    assert len({combined_seed(seeds) for seeds in ([7, 8], [8, 7], [7, 7], [7], [7, 8, 9])}) == 5
    assert combined_seed([]) == 0
    assert 0 <= combined_seed([2**63 - 1] * 9) < 2**63


def test_all_generators_repeat_after_the_same_seed() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    seed_generators(2**63 - 1)
    first = draw()
    assert draw() != first
    seed_generators(2**63 - 1)
    assert draw() == first

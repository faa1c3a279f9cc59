"""What is asked of DeepSpeed, from options alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from frame_deepspeed.placing import loads_on_device, weights_bytes
from frame_deepspeed.sharding import ShardSettings, candidate_paths, inference_config, read_config


@pytest.mark.parametrize(
    ("wanted", "injects", "on_gpu", "expected"),
    [
        ("auto", None, False, ("eager",)),
        ("auto", None, True, ("graph", "eager")),
        ("auto", False, True, ("graph", "eager")),
        ("auto", True, True, ("inject", "graph", "eager")),
        ("inject", None, True, ("inject", "graph", "eager")),
        ("inject", None, False, ("inject", "eager")),
        ("graph", None, True, ("graph", "eager")),
        ("graph", None, False, ("graph", "eager")),
        ("eager", None, True, ("eager",)),
    ],
)
def test_paths_are_tried_from_the_one_asked_for(
    wanted: str, injects: bool | None, on_gpu: bool, expected: tuple[str, ...]
) -> None:
    assert candidate_paths(wanted, injects=injects, on_gpu=on_gpu, falls_back=True) == expected
    assert candidate_paths(wanted, injects=injects, on_gpu=on_gpu, falls_back=False) == expected[:1]


def test_dtype_is_always_given_and_kernel_settings_only_with_kernels() -> None:
    plain = inference_config(ShardSettings(degree=2), dtype="float32")
    assert plain == {
        "dtype": "float32",
        "tensor_parallel": {"tp_size": 2},
        "replace_with_kernel_inject": False,
    }
    injected = inference_config(ShardSettings(degree=1, kernel_inject=True, max_tokens=99), dtype="float16")
    assert (injected["max_out_tokens"], injected["return_tuple"]) == (99, True)


def test_own_configuration_replaces_all_but_a_missing_dtype() -> None:
    config = {"tensor_parallel": {"tp_size": 2}, "checkpoint": "c.json"}
    assert inference_config(ShardSettings(degree=2, config=config), dtype="d") == {"dtype": "d", **config}
    given = inference_config(ShardSettings(degree=2, config={**config, "dtype": "fp32"}), dtype="d")
    assert given["dtype"] == "fp32"


def test_model_of_one_rank_is_left_alone() -> None:
    assert ShardSettings(degree=1).does_nothing()
    assert not ShardSettings(degree=2).does_nothing()
    assert not ShardSettings(degree=1, kernel_inject=True).does_nothing()
    assert not ShardSettings(degree=1, config={}).does_nothing()


def test_configuration_file_is_read_from_the_model_folder(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"tensor_parallel": {"tp_size": 2}}))
    assert read_config("ds.json", folder=str(tmp_path), degree=2) == {"tensor_parallel": {"tp_size": 2}}
    (tmp_path / "old.json").write_text(json.dumps({"mp_size": 2}))
    assert read_config("old.json", folder=str(tmp_path), degree=2) == {"mp_size": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("[]", "a JSON object is needed"),
        ('{"tensor_parallel": {"tp_size": 4}}', "tp_size is 4, but the group has 2 ranks"),
        ("{}", "tp_size is 1, but the group has 2 ranks"),
        ('{"tensor_parallel": 7}', "tp_size is 1"),
    ],
)
def test_bad_configuration_file_names_the_option(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    with pytest.raises(ValueError, match=f"option.deepspeed_config_path=ds.json: .*{words}"):
        read_config("ds.json", folder=str(tmp_path), degree=2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"weights": 70}, True),
        ({"weights": 80}, False),
        ({"weights": 80, "is_half": True}, True),
        ({"weights": 80, "degree": 1}, True),
        ({"weights": 80, "is_on_gpu": False}, True),
    ],
)
def test_model_too_large_for_one_device_is_cut_in_main_memory(
    changes: dict[str, Any], expected: bool
) -> None:
    given = {"degree": 2, "is_on_gpu": True, "is_half": False, "weights": 10, "free": 100, **changes}
    assert loads_on_device(**given) is expected


def test_weights_of_one_kind_are_counted(tmp_path: Path) -> None:
    assert weights_bytes(tmp_path) == 0
    (tmp_path / "pytorch_model.bin").write_bytes(b"123")
    assert weights_bytes(tmp_path) == 3
    for index in range(2):
        (tmp_path / f"model-{index}.safetensors").write_bytes(b"12345")
    assert weights_bytes(tmp_path) == 10

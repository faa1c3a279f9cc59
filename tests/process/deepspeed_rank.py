"""One rank of a group without a server: loads models as the engine does and prints what became of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from frame.api import EngineContext, ModelSpec
from frame_deepspeed.built_in import load_built_in
from frame_deepspeed.collectives import share_first
from frame_deepspeed.engine import DeepSpeedEngine
from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.sharding import ShardSettings, shard
from frame_python.handlers.replays import Runner, StepRunner
from frame_python.handlers.self_check import CheckSettings, SelfCheck, SelfCheckError
from frame_python.handlers.stepping import EagerStepper
from frame_python.handlers.verdicts import TOLERANCES
from transformers import AutoModelForCausalLM

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
CONTEXT = EngineContext(devices=("cpu",), rank=RANK, world_size=RANKS)
OPTIONS = DeepSpeedOptions(max_rolling_batch_size=4, max_tokens=64, all_reduce="gloo")


def swapped(model: Any, settings: ShardSettings) -> Any:
    """Cut a model, and give two ranks each other's part of one projection."""
    cut = shard(model, settings)
    for name, parameter in cut.named_parameters():
        if name.endswith("q_proj.weight"):
            parts = [torch.empty_like(parameter) for _ in range(RANKS)]
            torch.distributed.all_gather(parts, parameter.data.contiguous())
            parameter.data = parts[(1, 0, *range(2, RANKS))[RANK]]
            return cut
    raise AssertionError(name)


def load(folder: str, transform: Callable[[Any, ShardSettings], Any]) -> dict[str, Any]:
    """Load a folder as the engine does; return the check's report, or the error."""
    spec = ModelSpec(name="m", version=None, path=folder, model_file=None, options=OPTIONS, properties={})
    try:
        model: Any = load_built_in(spec, CONTEXT, transform=transform)
    except ValueError as error:
        return {"error": str(error)}
    return dict(model.self_check)


def check_cut(folder: str, transform: Callable[[Any, ShardSettings], Any]) -> dict[str, Any]:
    """Check a model as one that is too large for its device."""

    def build(model: Any) -> Runner:
        return StepRunner(EagerStepper(transform(model, ShardSettings(degree=RANKS)), slots=4, max_length=64))

    settings = CheckSettings(
        model="m", path="eager", tolerance=TOLERANCES["float32"], is_alone=False, is_first=RANK == 0,
        share=share_first, cache=Path("/nonexistent"),
    )  # fmt: skip
    check = SelfCheck(settings)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    check.look_before(model, device=torch.device("cpu"), fits=False, build=build, max_length=64)
    try:
        assert check.report is not None
        return check.look_after(build(model)).plain()  # has its verdict, and runs nothing
    except SelfCheckError as error:
        return {"error": str(error)}


def main() -> None:
    """Do it all in one process: importing torch takes longer."""
    engine = DeepSpeedEngine(CONTEXT)
    engine.prepare_libraries(OPTIONS)
    gptj, bloom = sys.argv[1:]
    found = {
        "swapped": load(gptj, swapped),
        "right": load(gptj, shard),  # after it: a pass would be kept for the next load
        "right, cut": check_cut(gptj, shard),
        "swapped, cut": check_cut(gptj, swapped),
        "bloom": load(bloom, shard),
    }
    engine.close()
    sys.stdout.write(f"FOUND {json.dumps(found)}\n")


if __name__ == "__main__":
    main()

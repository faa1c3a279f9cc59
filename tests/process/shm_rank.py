"""One rank of a group that adds up its parts in shared memory: says what it got."""

from __future__ import annotations

import json
import os
import sys

import torch
from frame.api import EngineContext
from frame_deepspeed.collectives import join_ranks
from frame_deepspeed.engine import DeepSpeedEngine
from frame_deepspeed.options import DeepSpeedOptions

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def main() -> None:
    """Join the ranks as the engine does and add up one number of each."""
    engine = DeepSpeedEngine(EngineContext(devices=("cpu",), rank=RANK, world_size=RANKS))
    engine.prepare_libraries(DeepSpeedOptions(all_reduce="shm"))
    import deepspeed.comm

    join_ranks(RANKS)
    tensor = torch.full((64,), float(RANK + 1))
    deepspeed.comm.inference_all_reduce(tensor)
    engine.close()
    sys.stdout.write(f"FOUND {json.dumps({'sum': tensor.tolist()})}\n")


if __name__ == "__main__":
    main()

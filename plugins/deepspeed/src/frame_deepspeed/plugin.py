"""The DeepSpeed engine as data. Imports no framework."""

from __future__ import annotations

import pluggy
from frame.api import Claim, EngineSpec, FolderListing

from frame_deepspeed import reference
from frame_deepspeed.launch import degree, launch, listen_address
from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.preflight import find_problems

hookimpl = pluggy.HookimplMarker("frame")


def claim_nothing(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim no folder: the engine is chosen by its name, since any model of transformers would do."""
    del spec, listing
    return None


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Yield the DeepSpeed engine."""
    remedy = "pip install frame-deepspeed"
    return [
        EngineSpec(
            name="DeepSpeed",
            api=(1, 1),
            target="frame_deepspeed.engine:DeepSpeedEngine",
            aliases=("Rubikon", "MPI"),  # DJL Serving's names
            detect=claim_nothing,
            options=DeepSpeedOptions,
            open_options=True,
            ranks=degree,
            fills_devices=True,
            listen_address=listen_address,
            launch=launch,
            preflight=find_problems,
            reference=reference.command,
            requires={"torch": remedy, "deepspeed": remedy, "transformers": remedy},
            packages=("frame_python", "djl_python"),
        )
    ]

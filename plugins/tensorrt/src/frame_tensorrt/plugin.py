"""What the TensorRT engine claims, as data; imports no framework."""

from __future__ import annotations

import pluggy
from frame.api import EngineSpec

from frame_tensorrt.options import TensorRTOptions

hookimpl = pluggy.HookimplMarker("frame")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Offer the engine `tensorrt`."""
    remedy = "pip install frame-tensorrt[gpu]"
    return [
        EngineSpec(
            name="tensorrt",
            api=(1, 1),
            target="frame_tensorrt.engine:TensorRTEngine",
            aliases=("TensorRT",),
            claims=("*.plan",),
            options=TensorRTOptions,
            requires={"tensorrt": remedy, "cuda": remedy},
        )
    ]

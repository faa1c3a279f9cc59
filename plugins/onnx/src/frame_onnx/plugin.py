"""What the ONNX engine claims, as data; imports no framework."""

from __future__ import annotations

import pluggy
from frame.api import EngineSpec

from frame_onnx.options import OnnxOptions

hookimpl = pluggy.HookimplMarker("frame")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Offer the engine `onnx`."""
    return [
        EngineSpec(
            name="onnx",
            api=(1, 1),
            target="frame_onnx.engine:OnnxEngine",
            aliases=("OnnxRuntime",),
            claims=("*.onnx",),
            options=OnnxOptions,
            requires={"onnxruntime": "pip install frame-onnx[cpu]"},
        )
    ]

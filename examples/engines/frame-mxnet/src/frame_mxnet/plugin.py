"""What the server reads: the engine as data."""

from __future__ import annotations

import pluggy
from frame.api import EngineSpec

from frame_mxnet.options import MXNetOptions

hookimpl = pluggy.HookimplMarker("frame")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="mxnet",
            api=(1, 1),
            target="frame_mxnet.engine:MXNetEngine",
            claims=("*-symbol.json",),
            options=MXNetOptions,
            requires={
                "mxnet": "it needs an old numpy: make an environment with mxnet==1.9.1 and numpy==1.23.5, "
                "and name its python in option.pythonExecutable"
            },
        )
    ]

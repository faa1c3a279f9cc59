"""What the server reads: the engine as data."""

from __future__ import annotations

from dataclasses import dataclass

import pluggy
from frame.api import EngineSpec, option

hookimpl = pluggy.HookimplMarker("frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnOptions:
    """Keys `option.*` of serving.properties."""

    probabilities: bool = option(True, "Answer with the probability of each class, where the model has them.")
    trusted: str = option("", "Types that the file may have beside scikit-learn's own, between commas.")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="sklearn",
            api=(1, 1),
            target="frame_sklearn.engine:SklearnEngine",
            aliases=("scikit-learn",),
            claims=("*.skops",),
            options=SklearnOptions,
            requires={
                "sklearn": "pip install 'frame-sklearn[cpu]'",
                "skops": "pip install 'frame-sklearn[cpu]'",
            },
        )
    ]

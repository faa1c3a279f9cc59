"""What the server reads: the engine as data."""

from __future__ import annotations

from dataclasses import dataclass

import pluggy
from frame.api import EngineSpec, option

hookimpl = pluggy.HookimplMarker("frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class XGBoostOptions:
    """Keys `option.*` of serving.properties."""

    margin: bool = option(False, "Answer with the untransformed sum of the trees.")


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="xgboost",
            api=(1, 1),
            target="frame_xgboost.engine:XGBoostEngine",
            claims=("*.xgb", "*.ubj", "*.bst", "model.json"),
            options=XGBoostOptions,
            requires={"xgboost": "pip install 'frame-xgboost[cpu]'"},
        )
    ]

"""What the server reads: the engine as data."""

from __future__ import annotations

from dataclasses import dataclass

import pluggy
from frame.api import EngineSpec, option

hookimpl = pluggy.HookimplMarker("frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatterOptions:
    """Keys `option.*` of serving.properties."""

    max_running: int = option(8, "Requests that run at once.", minimum=1)
    max_tokens: int = option(16, "Tokens of an answer, unless the request asks for less.", minimum=1)


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="chatter",
            api=(1, 1),
            target="frame_chatter.engine:ChatterEngine",
            claims=("*.chatter",),
            options=ChatterOptions,
        )
    ]

"""The `option.*` keys of the TensorRT engine."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTOptions:
    """Options of one model's engine."""

    profile: int = option(0, "Optimisation profile that requests are run with.", minimum=0)

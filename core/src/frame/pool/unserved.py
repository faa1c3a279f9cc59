"""Models without a pool: refused as they are configured, or on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class UnservedModel:
    """A model that has no pool: it cannot be served as it is configured, or is on its way (`PENDING`)."""

    name: str
    version: str | None
    url: str
    reason: str
    status: Literal["FAILED", "PENDING"] = "FAILED"

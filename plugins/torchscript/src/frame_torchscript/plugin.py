"""What the TorchScript engine claims, as data; imports no framework."""

from __future__ import annotations

from dataclasses import replace

import pluggy
from frame.api import Claim, EngineSpec, FolderListing, by_claims

from frame_torchscript.options import TorchScriptOptions

hookimpl = pluggy.HookimplMarker("frame")

_OWN = ("*.pt", "*.pt2", "*.jit", "*.torchscript")
_SHARED = ("*.pth",)  # TorchScript at times, a state dict mostly: only the file's contents tell


def detect(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim TorchScript's own suffixes with strength 50, `.pth`, which is mostly a state dict, with 30."""
    if claim := by_claims(replace(spec, claims=_OWN), listing):
        return claim
    claim = by_claims(replace(spec, claims=_SHARED), listing)
    return claim and replace(claim, strength=30)


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Offer the engine `torchscript`."""
    return [
        EngineSpec(
            name="torchscript",
            api=(1, 1),
            target="frame_torchscript.engine:TorchScriptEngine",
            aliases=("PyTorch", "torch"),
            claims=(*_OWN, *_SHARED),
            detect=detect,
            options=TorchScriptOptions,
            requires={"torch": "pip install frame-torchscript[torch]"},
        )
    ]

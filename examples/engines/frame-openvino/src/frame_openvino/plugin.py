"""What the server reads: the engine as data."""

from __future__ import annotations

import pluggy
from frame.api import Claim, EngineSpec, FolderListing

hookimpl = pluggy.HookimplMarker("frame")


def detect(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim OpenVINO's own files, and ONNX where no engine wants it more (`engine=openvino` chooses)."""
    del spec
    for pattern, strength in (("*.xml", 50), ("*.onnx", 30)):
        for path in sorted(listing.matching(pattern), key=lambda path: not path.startswith("model.")):
            if pattern == "*.onnx" or listing.matching(path.removesuffix(".xml") + ".bin"):
                return Claim(strength=strength, model_file=path, reason=f"found {path}")
    return None


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Declare the engine."""
    return [
        EngineSpec(
            name="openvino",
            api=(1, 1),
            target="frame_openvino.engine:OpenVINOEngine",
            detect=detect,
            requires={"openvino": "pip install 'frame-openvino[cpu]'"},
        )
    ]

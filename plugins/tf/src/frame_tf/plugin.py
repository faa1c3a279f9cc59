"""What the TensorFlow engine claims, as data; imports no framework."""

from __future__ import annotations

import pluggy
from frame.api import Claim, EngineSpec, FolderListing

from frame_tf.options import TensorFlowOptions

hookimpl = pluggy.HookimplMarker("frame")

_FILE = "saved_model.pb"


def detect(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim a SavedModel at the top of the folder or in a sub-folder of it.

    Of several sub-folders the one named as the model wins, then the largest number (TensorFlow Serving's
    version folders), then the first by name.
    """
    found = [path for pattern in spec.claims for path in listing.matching(pattern)]
    if not found:
        return None

    def rank(path: str) -> tuple[bool, bool, int, str]:
        folder = path.removesuffix(_FILE).rstrip("/")
        version = int(folder) if folder.isascii() and folder.isdigit() else -1
        return (folder != "", folder != listing.name, -version, folder)

    best = min(found, key=rank)
    others = len(found) - 1
    reason = f"found {best}" + (
        f" and {others} more, in folders of older versions or other models" if others else ""
    )
    return Claim(strength=50, model_file=best, reason=reason)


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Offer the engine `tf`."""
    return [
        EngineSpec(
            name="tf",
            api=(1, 1),
            target="frame_tf.engine:TensorFlowEngine",
            aliases=("TensorFlow",),
            claims=(_FILE, f"*/{_FILE}"),
            detect=detect,
            options=TensorFlowOptions,
            requires={"tensorflow": "pip install frame-tf[cpu]"},
        )
    ]

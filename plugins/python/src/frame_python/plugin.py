"""The Python engine as data: what it claims and which options it has. Imports no framework and no numpy."""

from __future__ import annotations

import pluggy
from frame.api import Claim, EngineSpec, FolderListing

from frame_python.entry_point import PICKLE_SUFFIXES
from frame_python.options import PythonOptions

hookimpl = pluggy.HookimplMarker("frame")


def detect(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim folders with a handler (100), scikit-learn and GGUF files (50) and Hugging Face models (10)."""
    del spec
    return _detect_handler(listing) or _detect_weights(listing)


def _detect_handler(listing: FolderListing) -> Claim | None:
    entry_point = _option(listing, "entryPoint")
    if entry_point:
        model_file = entry_point if listing.matching(entry_point) else None
        return Claim(strength=100, model_file=model_file, reason=f"option.entryPoint={entry_point}")
    if listing.matching("MAR-INF/*"):
        return Claim(strength=100, model_file=None, reason="found MAR-INF/")
    for name in dict.fromkeys((f"{listing.name}.py", "model.py")):
        if listing.matching(name):
            return Claim(strength=100, model_file=name, reason=f"found the handler {name}")
    return None


def _detect_weights(listing: FolderListing) -> Claim | None:
    for stem in dict.fromkeys((listing.name, "model")):
        for suffix in PICKLE_SUFFIXES:
            if listing.matching(stem + suffix):
                return Claim(strength=30, model_file=stem + suffix, reason=f"found {stem}{suffix}")
    gguf = listing.matching("*.gguf")
    if gguf:
        return Claim(strength=50, model_file=gguf[0], reason=f"found {gguf[0]}")
    if _option(listing, "model_id"):
        return Claim(strength=10, model_file=None, reason="option.model_id is set")
    if listing.matching("config.json"):
        return Claim(strength=10, model_file=None, reason="found config.json")
    return None


def _option(listing: FolderListing, name: str) -> str | None:
    """Return an option by any spelling of its name that the configuration accepts."""
    accepted = {f"option.{spelling}" for spelling in (name, name.lower())}
    return next((value for key, value in listing.properties.items() if key in accepted), None)


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Yield the Python engine."""
    return [
        EngineSpec(
            name="python",
            api=(1, 1),
            target="frame_python.engine:PythonEngine",
            detect=detect,
            options=PythonOptions,
            open_options=True,
            packages=("djl_python",),
        )
    ]

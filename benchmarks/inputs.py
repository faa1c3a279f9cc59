"""What models.py measures: example models, their batch sizes, and one row of each as arrays and bodies."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from frame.worker.codecs import ndlist

EXAMPLES = Path(__file__).parents[1] / "examples"
BATCHES = {
    "magika": (1, 8, 32),
    "minilm": (1, 8, 32),
    "basic_pitch": (1, 4),
    "silero_vad": (1, 8),
    "magika_files": (1, 8, 32),
}
"""Models in the order of the table; a batch of 4 keeps basic_pitch two seconds of music long per row."""
_DTYPES = {"magika": "int32", "minilm": "int64"}
"""Of inputs that the example store has as JSON."""

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One example model with the request that is sent to it.

    Attributes:
        known: the paths in a handler's JSON answer that are always the same.
    """

    model: str
    engine: str
    request: bytes
    content_type: str
    known: tuple[tuple[str | int, ...], ...]

    @property
    def folder(self) -> Path:
        """The model in the example store."""
        return EXAMPLES / "model_store" / self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One row as a client sends it. `is_binary` where neither side writes or reads numbers as text."""

    label: str
    data: bytes
    content_type: str
    accept: str
    is_binary: bool


def read_subject(model: str) -> Subject:
    """Return an example model with the first of its requests in `examples/cases.toml`."""
    case = next(case for case in _examples("cases").read_cases() if case.model == model)
    return Subject(
        model=model,
        engine=case.engine,
        request=case.request_file.read_bytes(),
        content_type=case.content_type,
        known=case.excerpt,
    )


def row_of(subject: Subject) -> Arrays:
    """Return the first row of a tensor model's request: `[1, ...]` arrays by input name."""
    if subject.content_type == "tensor/npz":
        with np.load(io.BytesIO(subject.request)) as given:
            whole = {name: given[name] for name in given.files}
    else:
        given = json.loads(subject.request)["inputs"]
        whole = {name: np.array(value, _DTYPES[subject.model]) for name, value in given.items()}
    return {name: np.ascontiguousarray(array[:1]) for name, array in whole.items()}


def bodies_of(subject: Subject) -> list[Body]:
    """Return the row as `tensor/ndlist` and as JSON; for a handler its request as it is."""
    if subject.engine == "python":
        kind = subject.content_type
        is_binary = kind == "application/octet-stream"
        label = "bytes" if is_binary else "json"
        return [Body(label=label, data=subject.request, content_type=kind, accept="*/*", is_binary=is_binary)]
    row = row_of(subject)
    binary, text = "tensor/ndlist", "application/json"
    encoded = json.dumps({"inputs": {name: array.tolist() for name, array in row.items()}}).encode()
    packed = ndlist.dumps(list(row.items()))
    return [
        Body(label="ndlist", data=packed, content_type=binary, accept=binary, is_binary=True),
        Body(label="json", data=encoded, content_type=text, accept=text, is_binary=False),
    ]


def _examples(name: str) -> ModuleType:
    """Import a module of `examples/`, which is a folder of scripts and no package."""
    import importlib

    sys.path.append(str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))

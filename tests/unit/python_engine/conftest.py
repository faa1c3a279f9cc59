"""Load a handler from its source text, as a worker would, and ask it."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from frame.api import EngineContext, Model, ModelSpec, Part, Properties, Request, Response, ResponseStream
from frame_python.engine import PythonEngine
from frame_python.options import PythonOptions

Load = Callable[..., Model]
_numbers = itertools.count()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Return a function that writes `model.py` (and other files) and loads the folder."""
    loaded: list[Model] = []

    def build(
        source: str | None = None,
        *,
        files: dict[str, str] | None = None,
        properties: dict[str, str] | None = None,
        name: str = "m",
        slots: int = 1,
        devices: tuple[str, ...] = ("cpu",),
        rank: int = 0,
        **options: Any,
    ) -> Model:
        folder = tmp_path / f"model{next(_numbers)}"
        texts = dict(files or {})
        if source is not None:
            texts["model.py"] = source
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text))
        folder.mkdir(exist_ok=True)
        engine = PythonEngine(EngineContext(devices=devices, slots=slots, rank=rank))
        spec = ModelSpec(
            name=name,
            version=None,
            path=str(folder),
            model_file=None,
            options=PythonOptions(**options),
            properties=properties or {},
            batch_size=8,
        )
        model = engine.load(spec)
        loaded.append(model)
        return model

    yield build
    for model in loaded:
        model.close()


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Return a function that makes a request with the entry `data`, or with the named parts instead."""

    def build(body: bytes | str = b"x", /, headers: dict[str, str] | None = None, **parts: bytes) -> Request:
        data = body.encode() if isinstance(body, str) else body
        entries = tuple(Part(key, value) for key, value in parts.items()) or (Part("data", memoryview(data)),)
        return Request(id=f"id-{next(_numbers)}", properties=Properties(headers or {}), parts=entries)

    return build


@pytest.fixture
def body_of() -> Callable[[object], bytes]:
    """Return a function that gives the bytes of a whole answer."""

    def read(answer: object) -> bytes:
        assert isinstance(answer, Response), answer
        return bytes(answer.parts[0].data)

    return read


@pytest.fixture
def json_of(body_of: Callable[[object], bytes]) -> Callable[[object], Any]:
    """Return a function that gives the JSON of a whole answer."""
    return lambda answer: json.loads(body_of(answer))


@pytest.fixture
def read_stream() -> Callable[[object], list[bytes]]:
    """Return a function that gives a stream's chunks and closes it."""

    def read(answer: object) -> list[bytes]:
        assert isinstance(answer, ResponseStream), answer
        try:
            return [bytes(chunk) for chunk in answer.chunks]
        finally:
            answer.close()

    return read

"""Run each example model by its framework alone, without the server: what the server must answer.

Each function takes the request's bytes and the model's folder and returns the JSON answer as Python values.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import wheels

Json = Any
CHUNK = 512  # samples, of the voice detector


def predictions(outputs: dict[str, np.ndarray]) -> Json:
    """Return a tensor model's outputs as the server's JSON has them: the array of one, several by name."""
    lists = {name: array.tolist() for name, array in outputs.items()}
    return {"predictions": next(iter(lists.values())) if len(lists) == 1 else lists}


def run_onnx(folder: Path, inputs: dict[str, np.ndarray]) -> Json:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return predictions(dict(zip(names, session.run(names, inputs), strict=True)))


def magika(request: bytes, folder: Path) -> Json:
    return run_onnx(folder, {"bytes": np.array(json.loads(request)["inputs"]["bytes"], np.int32)})


def silero_vad_onnx(request: bytes, folder: Path) -> Json:
    given = json.loads(request)["inputs"]
    dtypes = {"input": np.float32, "state": np.float32, "sr": np.int64}
    return run_onnx(folder, {name: np.array(given[name], dtype) for name, dtype in dtypes.items()})


def text_direction(request: bytes, folder: Path) -> Json:
    """Prepare the picture, which has 192 x 48 pixels already, as rapidocr 1.4.4 does (text_cls.py)."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(request)).convert("RGB"), np.float32)
    planes = pixels[:, :, ::-1].transpose(2, 0, 1)  # blue first, as OpenCV reads it
    answer = run_onnx(folder, {"x": np.ascontiguousarray((planes / 255 - 0.5) / 0.5)[None]})
    return {"predictions": answer["predictions"][0]}  # one picture is one row, without the batch's axis


def minilm(request: bytes, folder: Path) -> Json:
    import torch

    return _embed(request, torch.jit.load(folder / "model.pt").eval())


def minilm_export(request: bytes, folder: Path) -> Json:
    import torch

    return _embed(request, torch.export.load(folder / "model.pt2").module())


def _embed(request: bytes, program: Callable[..., Any]) -> Json:
    import torch

    given = json.loads(request)["inputs"]
    with torch.inference_mode():
        embedding = program(*(torch.tensor(given[name]) for name in ("input_ids", "attention_mask")))
    return predictions({"embedding": embedding.numpy()})


def silero_vad_jit(request: bytes, folder: Path) -> Json:
    import torch

    chunk = torch.tensor(json.loads(request)["inputs"]["x"], dtype=torch.float32)
    with torch.inference_mode():
        return predictions({"speech": torch.jit.load(folder / "model.pt").eval()(chunk, 16_000).numpy()})


def silero_vad(request: bytes, folder: Path) -> Json:
    """Let the module keep its own state, as its authors meant it; the answer's state is given as floats."""
    import torch

    audio = torch.tensor(json.loads(request)["audio"], dtype=torch.float32)
    detector = torch.jit.load(folder / "silero_vad.jit").eval()
    with torch.inference_mode():
        speech = [detector(chunk[None], 16_000).item() for chunk in audio.split(CHUNK)]
        kept = (getattr(detector, name).flatten() for name in ("_context", "_state"))
        state = torch.cat(list(kept))
    return {"speech": speech, "state": state.tolist()}


def basic_pitch(request: bytes, folder: Path) -> Json:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    from tensorflow.python.saved_model import load_v1_in_v2

    # Its Keras 2 optimizer stops tf.saved_model.load; what is served does not need it.
    model = load_v1_in_v2.load(str(folder), ["serve"])
    with np.load(io.BytesIO(request)) as given:
        outputs = model.signatures["serving_default"](input_2=tf.constant(given["input_2"]))
    return predictions({name: outputs[name].numpy() for name in sorted(outputs)})


def magika_files(request: bytes, folder: Path) -> Json:
    """Ask the package that the model comes from."""
    del folder
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheels.fetch(wheels.MAGIKA)) as archive:
        archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith("magika/")])
        with _first_on_path(unpacked):
            found = importlib.import_module("magika").Magika().identify_bytes(request)
    return {"label": str(found.output.label), "score": found.score, "media_type": found.output.mime_type}


@contextlib.contextmanager
def _first_on_path(folder: str) -> Any:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


DIRECT: dict[str, Callable[[bytes, Path], Json]] = {
    function.__name__: function
    for function in (
        *(magika, text_direction, silero_vad_onnx, minilm, minilm_export),
        *(silero_vad_jit, basic_pitch, silero_vad, magika_files),
    )
}


def run(model: str, request: bytes, folder: Path) -> Json:
    """Answer a request to `model`, whose files are in `folder`, by its framework alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DIRECT[model](request, folder)

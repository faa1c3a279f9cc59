"""The yardstick of models.py: a framework alone, in a process of its own, called in a loop on ready inputs.

Usage: python benchmarks/raw.py MODEL, then one JSON command a line on stdin, each answered by one line:

    {"batch": 8, "seconds": 3}    {"rate": rows per second, "call_seconds": mean of one call}
    {"answer": true}              the answer to the first row, as JSON

One thread computes, as in the server's worker: OMP_NUM_THREADS is 1 in the environment, and each framework is
told the same. Arrays are stacked and handlers' inputs are built before the loop.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from inputs import Arrays, Subject, read_subject, row_of

Call = Callable[[], Any]
Forward = Callable[[Arrays], Arrays]
_WARM_CALLS = 3  # torch compiles in its second call, TensorFlow traces each new shape


def load_onnx(folder: Path) -> Forward:
    """Return a session's `run`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def load_torchscript(folder: Path) -> Forward:
    """Return a module's `forward`, which has one output."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch announces the end of TorchScript
        module = torch.jit.load(str(folder / "model.pt")).eval()

    def forward(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"output": module(*(torch.from_numpy(array) for array in arrays.values())).numpy()}

    return forward


def load_tf(folder: Path) -> Forward:
    """Return a SavedModel's default signature."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    from tensorflow.python.saved_model import load_v1_in_v2

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # Its Keras 2 optimizer stops tf.saved_model.load; what is measured does not need it.
    model = load_v1_in_v2.load(str(folder), ["serve"])

    def forward(arrays: Arrays) -> Arrays:
        outputs = model.signatures["serving_default"](
            **{name: tf.convert_to_tensor(array) for name, array in arrays.items()}
        )
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return forward


LOADERS: dict[str, Callable[[Path], Forward]] = {
    "onnx": load_onnx,
    "torchscript": load_torchscript,
    "tf": load_tf,
}


def tensor_calls(subject: Subject) -> Callable[[int], Call]:
    """Return what gives a call of the framework on a batch of so many rows."""
    forward, row = LOADERS[subject.engine](subject.folder), row_of(subject)

    def ready(batch: int) -> Call:
        arrays = {name: np.repeat(array, batch, axis=0) for name, array in row.items()}
        return lambda: forward(arrays)

    return ready


def handler_calls(subject: Subject) -> Callable[[int], Call]:
    """Return what gives a call of model.py's `handle` on a batch of so many requests."""
    from djl_python import Input

    os.chdir(subject.folder)
    spec = importlib.util.spec_from_file_location("model", "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    first = Input()
    first.properties["device_id"] = "-1"
    module.handle(first)

    def ready(batch: int) -> Call:
        inputs = Input()
        if batch > 1:
            inputs.properties["batch_size"] = str(batch)
        for index in range(batch):
            prefix = f"batch_{index:03d}." if batch > 1 else ""
            inputs.properties[f"{prefix}Content-Type"] = subject.content_type
            inputs.content.add(f"{prefix}data", bytearray(subject.request))
        return lambda: module.handle(inputs)

    return ready


def as_json(answer: Any) -> Any:
    """Return the first row's answer: a list of arrays as lists, or what the handler wrote."""
    if isinstance(answer, dict):
        return [answer[name].tolist() for name in sorted(answer)]
    output = answer[0] if isinstance(answer, list) else answer
    return json.loads(bytes(output.content.value_at(0)))


def loop(call: Call, batch: int, seconds: float) -> dict[str, float]:
    """Call for `seconds`; return rows per second and the mean seconds of one call."""
    for _ in range(_WARM_CALLS):
        call()
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or calls < _WARM_CALLS:
        call()
        calls += 1
    return {"rate": calls * batch / elapsed, "call_seconds": elapsed / calls}


def main() -> None:
    """Answer commands until stdin ends."""
    subject = read_subject(sys.argv[1])
    ready = handler_calls(subject) if subject.engine == "python" else tensor_calls(subject)
    for line in sys.stdin:
        command = json.loads(line)
        if command.get("answer"):
            found = as_json(ready(1)())
        else:
            found = loop(ready(command["batch"]), command["batch"], command["seconds"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""What workers run: models of OpenVINO, and of ONNX."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from frame.api import Engine, ModelSpec, Signature, TensorModel, Tensors, TensorSpec


class OpenVINOModel(TensorModel):
    """A compiled model; each thread has a request of its own."""

    def __init__(self, compiled: Any, slots: int) -> None:
        self.concurrency = slots
        self._compiled = compiled
        self._of_thread = threading.local()
        self.signature = Signature(_specs(compiled.inputs), _specs(compiled.outputs))

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        found = request.infer(dict(enumerate(inputs.values())))
        return {
            spec.name: np.array(found[port])  # a copy: the request writes its own again
            for spec, port in zip(self.signature.outputs, self._compiled.outputs, strict=True)
        }

    def close(self) -> None:
        """Drop the model."""
        self._of_thread = threading.local()
        self._compiled = None


def _specs(ports: Any) -> tuple[TensorSpec, ...]:
    """Describe inputs or outputs; what has no name is called by its place."""
    return tuple(
        TensorSpec(
            port.get_any_name() if port.get_names() else str(number),
            port.get_element_type().to_dtype().name,
            tuple(-1 if item.is_dynamic else item.get_length() for item in port.get_partial_shape()),
        )
        for number, port in enumerate(ports)
    )


class OpenVINOEngine(Engine):
    """Compiles models for the CPU."""

    def load(self, spec: ModelSpec) -> OpenVINOModel:
        """Compile one.

        Raises:
            ValueError: there is no file, or it cannot be read.
        """
        if spec.model_file is None:
            raise ValueError("there is no *.xml with its *.bin, nor *.onnx, in the model folder")
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": self.context.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16 it would round to that
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            compiled = core.compile_model(str(Path(spec.path, spec.model_file)), "CPU", settings)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"{spec.model_file}: OpenVINO cannot read it: {last}") from error
        return OpenVINOModel(compiled, self.context.slots)

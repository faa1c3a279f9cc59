"""The TensorRT engine: a serialized engine, its signature from its tensors, one execution context.

Written from TensorRT 10's and CUDA's documentation; no device has run it yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from frame.api import (
    Engine,
    EngineContext,
    ModelSpec,
    RequestError,
    Signature,
    TensorModel,
    Tensors,
    TensorSpec,
)

from frame_tensorrt.memory import DeviceMemory
from frame_tensorrt.options import TensorRTOptions

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class TensorRTEngine(Engine):
    """Loads `*.plan` files, on one GPU."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        device = context.devices[0]
        if len(context.devices) != 1 or not device.startswith("gpu"):
            devices = "+".join(context.devices)
            raise ValueError(f"a TensorRT engine runs on one NVIDIA GPU, not on {devices}")
        self._device = int(device.removeprefix("gpu"))

    def load(self, spec: ModelSpec) -> TensorRTModel:
        """Load `spec.model_file`.

        Raises:
            ValueError: the file is no engine for this version of TensorRT and this GPU, or has tensors that
                numpy has no type for.
        """
        if spec.model_file is None:
            raise ValueError(f"model {spec.name}: its folder has no .plan file")
        options = spec.options if isinstance(spec.options, TensorRTOptions) else TensorRTOptions()
        memory = DeviceMemory(self._device)
        try:
            return TensorRTModel(
                _deserialize(Path(spec.path, spec.model_file), options), memory, options.profile
            )
        except BaseException:
            memory.close()
            raise


class TensorRTModel(TensorModel):
    """One execution context, for one batch at a time: TensorRT forbids overlapping calls of one."""

    def __init__(self, loaded: tuple[Any, Any], memory: DeviceMemory, profile: int) -> None:
        self._loaded: tuple[Any, Any] | None = loaded  # the engine must not outlive its runtime
        self._memory = memory
        self._profile = profile
        engine = loaded[1]
        self.signature = signature_of(engine)
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise MemoryError("the GPU has no room for an execution context")
        if profile:
            self._context.set_optimization_profile_async(profile, memory.stream)

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch on the GPU.

        Raises:
            RequestError: 400, a shape is outside of the optimisation profile.
            MemoryError: the GPU has no room for the tensors.
            RuntimeError: the execution failed.
        """
        context, memory = self._context, self._memory
        for spec in self.signature.inputs:
            array = inputs[spec.name]
            if not context.set_input_shape(spec.name, tuple(array.shape)):
                raise RequestError(400, self._refusal(spec.name, array.shape))
            context.set_tensor_address(spec.name, memory.upload(spec.name, array))
        shapes = {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in self.signature.outputs}
        for spec in self.signature.outputs:
            shape = shapes[spec.name]
            if any(size < 0 for size in shape):
                raise RuntimeError(f"{spec.name}: its shape depends on the data, which is not supported")
            context.set_tensor_address(spec.name, memory.reserve(spec.name, _size_bytes(shape, spec.dtype)))
        if not context.execute_async_v3(memory.stream):
            raise RuntimeError("TensorRT could not run the batch; the log says why")
        return {
            spec.name: memory.download(spec.name, shapes[spec.name], spec.dtype)
            for spec in self.signature.outputs
        }

    def warm_up(self) -> None:
        """Run once with the shapes that the profile is best at."""
        if self._loaded is not None:
            engine = self._loaded[1]
            shapes = {
                spec.name: engine.get_tensor_profile_shape(spec.name, self._profile)[1]
                for spec in self.signature.inputs
            }
            dtypes = {spec.name: spec.dtype for spec in self.signature.inputs}
            self.forward({name: np.zeros(tuple(shape), dtypes[name]) for name, shape in shapes.items()})

    def close(self) -> None:
        """Free the context, the engine and its memory. Idempotent."""
        self._context = None
        self._loaded = None
        self._memory.close()

    def _refusal(self, name: str, shape: tuple[int, ...]) -> str:
        if self._loaded is None:
            return "the model is closed"
        least, _, most = self._loaded[1].get_tensor_profile_shape(name, self._profile)
        return f"{name}: {list(shape)} is outside of what was built for, {list(least)} to {list(most)}"


def _deserialize(path: Path, options: TensorRTOptions) -> tuple[Any, Any]:
    """Return a runtime, and the engine in a file."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ValueError(
            f"{path.name}: TensorRT {trt.__version__} cannot load it. An engine runs only with the version "
            "that built it, on a GPU of the same kind: build it again here with trtexec --saveEngine; the "
            "log above says more"
        )
    if options.profile >= engine.num_optimization_profiles:
        raise ValueError(
            f"option.profile={options.profile}: {path.name} has {engine.num_optimization_profiles} "
            "optimisation profiles, the first is 0"
        )
    return runtime, engine


def signature_of(engine: Any) -> Signature:
    """Return an engine's inputs and outputs in its order; sizes that are free are -1.

    Raises:
        ValueError: a tensor has a type that numpy lacks, or its shape is given as an input's values.
    """
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        given = engine.get_tensor_dtype(name).name
        dtype = _DTYPES.get(given)
        if dtype is None:
            raise ValueError(
                f"{name} has the type {given}; supported are {', '.join(_DTYPES)}: "
                "build the engine with another type for its inputs and outputs (trtexec --inputIOFormats)"
            )
        if engine.is_shape_inference_io(name):
            raise ValueError(f"{name} is a shape tensor, which is not supported as an input or output")
        spec = TensorSpec(name, dtype, tuple(engine.get_tensor_shape(name)))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(spec)
    return Signature(tuple(inputs), tuple(outputs))


def _size_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize

"""The ONNX engine: one ONNX Runtime session per model, shared by the slots of its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
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
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from frame_onnx.options import OnnxOptions

_PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "ROCM": "ROCMExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "DirectML": "DmlExecutionProvider",
}
_SHARED_PROVIDERS = ("CPU", "CUDA")
"""Providers whose sessions several threads may run at the same time."""
_WITH_DEVICE_ID = ("CUDA", "TensorRT", "ROCM", "MIGraphX")
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "string": "str",
    **{
        name: name
        for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    "bool": "bool",
}
_OPT_LEVELS = {
    "NO_OPT": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "BASIC_OPT": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "EXTENDED_OPT": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "ALL_OPT": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_RUN_ERRORS = (ort_errors.Fail, ort_errors.RuntimeException, ort_errors.EPFail)
_MEMORY_TEXTS = ("bad_alloc", "Failed to allocate memory", "out of memory", "bfc_arena")
_LOG_ERRORS_ONLY, _LOG_FATAL_ONLY = 3, 4


class OnnxEngine(Engine):
    """Loads ONNX files."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        ort.set_default_logger_severity(_LOG_ERRORS_ONLY)

    def load(self, spec: ModelSpec) -> OnnxModel:
        """Load `spec.model_file`.

        Raises:
            ValueError: the file is no ONNX model, or needs what the installed onnxruntime lacks.
        """
        options = spec.options if isinstance(spec.options, OnnxOptions) else OnnxOptions()
        if spec.model_file is None:
            raise ValueError(f"model {spec.name}: its folder has no .onnx file")
        provider = options.ortDevice or ("CUDA" if self.context.devices[0].startswith("gpu") else "CPU")
        settings = session_options(options, spec, self.context.threads)
        try:
            session = ort.InferenceSession(
                str(Path(spec.path, spec.model_file)),
                sess_options=settings,
                providers=provider_list(provider, self.context.devices[0], options),
            )
        except _LOAD_ERRORS as error:
            raise ValueError(
                f"{spec.model_file}: onnxruntime {ort.__version__} cannot load it: {error}"
            ) from error
        if _PROVIDERS[provider] not in session.get_providers():
            raise ValueError(
                f"{spec.model_file}: the execution provider {provider} is installed but does not start; "
                "its libraries may be missing, the log above says which"
            )
        shares = provider in _SHARED_PROVIDERS
        return OnnxModel(session, signature_of(session), concurrency=self.context.slots if shares else 1)


class OnnxModel(TensorModel):
    """One session. `Run` keeps no state between calls and may be called from several threads."""

    def __init__(self, session: Any, signature: Signature, *, concurrency: int) -> None:
        self.signature = signature
        self.concurrency = concurrency
        self._session = session
        self._outputs = [spec.name for spec in signature.outputs]

    def forward(self, inputs: Tensors) -> Tensors:
        """Run the session."""
        try:
            outputs = self._session.run(self._outputs, inputs)
        except ort_errors.InvalidArgument as error:
            taken = ", ".join(
                f"{spec.name} {spec.dtype} {list(spec.shape or ())}" for spec in self.signature.inputs
            )
            message = f"the model refused the inputs{_reason(error)}; it takes {taken}"
            raise RequestError(400, message) from error
        except _RUN_ERRORS as error:
            if any(text in str(error) for text in _MEMORY_TEXTS):
                raise MemoryError(str(error)) from error
            raise
        return {name: np.asarray(output) for name, output in zip(self._outputs, outputs, strict=True)}

    def close(self) -> None:
        """Let go of the session; its memory is freed when no call uses it any more."""
        self._session = None


def session_options(options: OnnxOptions, spec: ModelSpec, threads: int) -> Any:
    """Return ONNX Runtime's settings; `threads` counts where the options say nothing."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _LOG_FATAL_ONLY  # a failed run is raised, and logged by who catches it
    settings.intra_op_num_threads = options.intra_op_num_threads or threads
    settings.inter_op_num_threads = options.inter_op_num_threads
    is_parallel = options.executionMode == "PARALLEL"
    settings.execution_mode = (
        ort.ExecutionMode.ORT_PARALLEL if is_parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    )
    settings.graph_optimization_level = _OPT_LEVELS[options.optLevel]
    settings.enable_mem_pattern = options.memoryPatternOptimization
    settings.enable_cpu_mem_arena = options.cpuArenaAllocator
    if options.customOpLibrary:
        library = Path(spec.path, options.customOpLibrary)
        if not library.is_file():
            raise ValueError(
                f"option.customOpLibrary: {options.customOpLibrary} is not in the model's folder"
            )
        try:
            settings.register_custom_ops_library(str(library))
        except _LOAD_ERRORS as error:
            raise ValueError(f"option.customOpLibrary: {options.customOpLibrary}: {error}") from error
    return settings


_REMEDIES = {
    "CUDA": "; pip install frame-onnx[gpu] in place of frame-onnx[cpu]",
    "TensorRT": "; pip install frame-onnx[gpu] tensorrt in place of frame-onnx[cpu]",
}


def provider_list(provider: str, device: str, options: OnnxOptions) -> list[Any]:
    """Return ONNX Runtime's `providers` argument: the provider, then what runs the nodes that it lacks.

    Raises:
        ValueError: the installed onnxruntime does not have the provider.
    """
    name = _PROVIDERS[provider]
    available = ort.get_available_providers()
    if name not in available:
        remedy = _REMEDIES.get(provider, "")
        has = f"it has {', '.join(available)}"
        raise ValueError(f"the installed onnxruntime {ort.__version__} does not have {name} ({has}){remedy}")
    if provider == "CPU":
        return [name]
    index = device.removeprefix("gpu")
    settings = {"device_id": index} if provider in _WITH_DEVICE_ID and index.isdecimal() else {}
    if provider != "TensorRT":
        return [(name, settings), _PROVIDERS["CPU"]]
    cuda = [(_PROVIDERS["CUDA"], settings)] if _PROVIDERS["CUDA"] in available else []
    return [(name, {**settings, **_tensorrt_settings(options)}), *cuda, _PROVIDERS["CPU"]]


def _tensorrt_settings(options: OnnxOptions) -> dict[str, str]:
    """Return what TensorRT is asked for: half precision, and a folder for the engines that it built."""
    settings = {"trt_fp16_enable": "1"} if options.tensorrtFp16 else {}
    if options.tensorrtCache:
        settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.tensorrtCache}
    return settings


def signature_of(session: Any) -> Signature:
    """Return the session's signature; sizes with a name in place of a number are free.

    Raises:
        ValueError: an input or output is no tensor of a dtype that numpy has.
    """
    inputs = tuple(TensorSpec(node.name, _dtype(node), _sizes(node.shape)) for node in session.get_inputs())
    # ONNX Runtime gives the same empty list for a scalar and for an output whose rank it could not infer.
    outputs = tuple(
        TensorSpec(node.name, _dtype(node), _sizes(node.shape) if node.shape else None)
        for node in session.get_outputs()
    )
    return Signature(inputs, outputs)


def _sizes(shape: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in shape)


def _dtype(node: Any) -> str:
    dtype = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    if node.type.startswith("tensor(") and dtype is not None:
        return dtype
    if node.type.startswith("seq(map("):
        remedy = "; convert the model with the option zipmap=False, so that it gives a tensor"
    elif node.type == "tensor(bfloat16)":
        remedy = "; numpy has no bfloat16: cast it to float32 inside the model"
    else:
        remedy = f"; supported are tensors of {', '.join(_DTYPES)}"
    raise ValueError(f"{node.name} has the type {node.type}{remedy}")


def _reason(error: Exception) -> str:
    """Return what an operation said about its data, when that names no file of the build."""
    _, found, status = str(error).partition("Status Message: ")
    line = status.strip().split("\n", 1)[0][:200]
    return f": {line}" if found and line and "/" not in line else ""

"""The `option.*` keys of the ONNX engine; DJL Serving's spellings are accepted too."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """Options of one model's ONNX Runtime session."""

    intra_op_num_threads: int | None = option(
        None,
        "CPU threads in one operation; unset: what the server gives a worker, 1 as in DJL Serving.",
        aliases=("intraOpNumThreads",),
        minimum=1,
    )
    inter_op_num_threads: int = option(
        1,
        "CPU threads that run operations side by side, with executionMode=PARALLEL.",
        aliases=("interOpNumThreads",),
        minimum=1,
    )
    executionMode: str = option(
        "SEQUENTIAL", "Run operations one after another or side by side.", choices=("SEQUENTIAL", "PARALLEL")
    )
    optLevel: str = option(
        "ALL_OPT",
        "How far the graph is optimised at load.",
        choices=("NO_OPT", "BASIC_OPT", "EXTENDED_OPT", "ALL_OPT"),
    )
    memoryPatternOptimization: bool = option(
        True, "Plan memory once for inputs of one shape; false where shapes vary much and memory is short."
    )
    cpuArenaAllocator: bool = option(
        True, "Keep freed CPU memory for later calls; false gives it back to the system, and is slower."
    )
    customOpLibrary: str = option("", "Shared library with custom operations, in the model's folder.")
    ortDevice: str = option(
        "",
        "Execution provider; unset: CUDA on a GPU, else CPU. The installed onnxruntime must have it.",
        choices=("CPU", "CUDA", "TensorRT", "ROCM", "MIGraphX", "CoreML", "OpenVINO", "DirectML"),
    )
    tensorrtFp16: bool = option(False, "With ortDevice=TensorRT: compute in float16 where that is faster.")
    tensorrtCache: str = option(
        "",
        "With ortDevice=TensorRT: folder for what it builds, which takes minutes; unset: nothing is kept.",
    )

"""The `option.*` keys of the TensorFlow engine."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFlowOptions:
    """Options of one model; threads and memory growth hold for its worker process."""

    signature_def: str = option(
        "serving_default", "The signature of the SavedModel to serve.", aliases=("SignatureDefKey",)
    )
    tags: str = option(
        "", "Comma-separated tags of the graph to load; by default the only one.", aliases=("Tags",)
    )
    intra_op_num_threads: int | None = option(
        None, "CPU threads in one operation.", aliases=("intraOpNumThreads",), minimum=1
    )
    inter_op_num_threads: int = option(
        1, "CPU threads that run operations side by side.", aliases=("interOpNumThreads",), minimum=1
    )
    memory_growth: bool = option(True, "Take GPU memory as it is needed; false: all of it at once.")

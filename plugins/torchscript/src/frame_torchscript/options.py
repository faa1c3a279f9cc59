"""The `option.*` keys of the TorchScript engine."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchScriptOptions:
    """Options of one model; `frame_torchscript.declared` gives the syntax of `inputs` and `outputs`."""

    inputs: str = option(
        "",
        "What forward takes: ids:int64[-1,-1],mask:int64[-1,-1]. -1 is free, axis 0 the batch, [] a scalar, "
        "no brackets any shape; sr=16000 fixes an argument. Needed where the file says nothing.",
    )
    outputs: str = option(
        "", "Names of the outputs in order, as mean,std; _ drops one. dtype and shape may follow."
    )
    reset: str = option(
        "", "A method of the module to call before every request, which then runs alone, on a fresh state."
    )
    intra_op_num_threads: int | None = option(
        None, "CPU threads in one operation.", aliases=("intraOpNumThreads",), minimum=1
    )
    inter_op_num_threads: int = option(
        1, "CPU threads that run operations side by side.", aliases=("interOpNumThreads",), minimum=1
    )
    mapLocation: bool = option(
        True, "Load weights straight onto the group's device; false: where the file says, then move them."
    )
    extraFiles: str = option("", "Comma-separated extra files that the TorchScript archive must contain.")
    freeze: bool = option(False, "Freeze the module: parameters become constants (torch.jit.freeze).")
    optimize_for_inference: bool = option(
        False, "Freeze and fuse for this machine (torch.jit.optimize_for_inference); numbers change slightly."
    )

"""The DeepSpeed engine's `option.*` keys. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option
from frame_python.options import PythonOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeedOptions(PythonOptions):
    """Options of `engine=DeepSpeed`: all of `engine=Python`, and these; a handler gets others as strings.

    Names and defaults are those of DJL Serving's DeepSpeed handler, as far as it has them.
    """

    launcher: str = option(
        "mpirun",
        "How a group's ranks are started. mpirun: by Open MPI or MPICH; spawn: without MPI, on one host.",
        choices=("mpirun", "spawn"),
    )
    mpirun: str | None = option(
        None, "The mpirun (or mpiexec) to use. Default: beside the workers' interpreter, then in PATH."
    )
    hosts: str | None = option(
        None, "Hosts of a group with their ranks, `host1:4,host2:4`; needs option.master_addr."
    )
    hostfile: str | None = option(
        None, "A file with the hosts of a group, as mpirun reads it; needs option.master_addr."
    )
    master_addr: str | None = option(
        None, "An address of this host that the other hosts of a group can reach; the router listens there."
    )
    compat: str = option(
        "on",
        "on: what transformers' pipelines look up on DeepSpeed's InferenceEngine is found on its module.",
        choices=("on", "off"),
    )
    all_reduce: str = option(
        "auto",
        "How ranks add up their parts. On CPUs, shm: shared memory, compiled on first use (45 s, once); "
        "gloo: needs no compiler, slower; auto: shm where there is a compiler. On GPUs, nccl; or auto: "
        "compiled steps of GPT-J read the other GPUs' memory where they can.",
        choices=("auto", "shm", "gloo", "nccl"),
    )
    path: str = option(
        "auto",
        "How a model without code runs. eager: as transformers has it; inject: DeepSpeed's kernels; graph: "
        "compiled and captured steps; auto: the fastest that is right for model and device.",
        choices=("auto", "eager", "inject", "graph"),
    )
    replace_with_kernel_inject: bool | None = option(
        None, "Use DeepSpeed's kernels (CUDA only). Default: chosen by path."
    )
    on_self_check: str = option(
        "fallback",
        "What a model does at load whose tokens differ from those of the model before it was cut, injected, "
        "quantized or compiled. fail: it is refused; fallback: it runs on a path that agrees; off: no check.",
        choices=("fail", "fallback", "off"),
    )
    self_check_timeout: int = option(
        60, "Seconds that the self-check may take, beside the load's.", minimum=1
    )
    deepspeed_config_path: str | None = option(
        None, "A JSON file for deepspeed.init_inference, instead of what is made from these options."
    )
    checkpoint: str | None = option(
        None, "Refused: DeepSpeed's checkpoints are not read. Save the model with save_pretrained."
    )
    save_mp_checkpoint_path: str | None = option(None, "Refused: a cut model is not written.")
    quantize: str | None = option(None, "dynamic_int8: weights of 8 bits, where the device has it.")
    smoothquant_alpha: float | None = option(
        None, "Accepted for DJL Serving's folders; smoothquant is refused."
    )
    enable_cuda_graph: bool = option(False, "Passed to DeepSpeed.")
    triangular_masking: bool = option(True, "Passed to DeepSpeed.")
    return_tuple: bool = option(True, "Passed to DeepSpeed.")
    training_mp_size: int = option(1, "Parts that a checkpoint was trained in.", minimum=1)
    revision: str | None = option(None, "Of a model of a hub; nothing is downloaded, so it is not used.")

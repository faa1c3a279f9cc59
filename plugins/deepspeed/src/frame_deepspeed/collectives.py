"""How the ranks of a group add up their parts: choose the all-reduce, join the ranks, leave them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

_log = logging.getLogger(__name__)
AllReduce = Literal["shm", "gloo"]
_SHM_OP = "deepspeed_shm_comm"
_LEAVE_SECONDS = 5.0


def choose_all_reduce(
    wanted: str, *, environ: Mapping[str, str], has_compiler: bool, has_ninja: bool, has_gpu: bool
) -> tuple[AllReduce, str]:
    """Return which all-reduce CPU ranks use, and why in a few words.

    Args:
        wanted: `option.all_reduce`: auto, shm, gloo, or nccl, which there is none of for them.
        environ: with LOCAL_SIZE and WORLD_SIZE.

    Raises:
        ValueError: `shm` was asked for where it cannot work.
    """
    if wanted in {"gloo", "nccl"}:
        return "gloo", f"option.all_reduce={wanted}"
    lacking = _why_not_shm(environ, has_compiler=has_compiler, has_ninja=has_ninja, has_gpu=has_gpu)
    if wanted == "shm" and lacking:
        message = f"option.all_reduce=shm: {lacking}; set option.all_reduce=gloo or auto"
        raise ValueError(message)
    return ("gloo", lacking) if lacking else ("shm", "ranks of one host, compiler found")


def _why_not_shm(environ: Mapping[str, str], *, has_compiler: bool, has_ninja: bool, has_gpu: bool) -> str:
    """Return what DeepSpeed's shared-memory all-reduce lacks here, "" when nothing."""
    if has_gpu:
        return "it is for ranks on the CPU"
    if environ.get("LOCAL_SIZE", "") != environ.get("WORLD_SIZE", "1"):
        # Without LOCAL_SIZE its first call is a segmentation fault; over two hosts there is no shared memory.
        return "it needs all ranks on one host, and LOCAL_SIZE equal to WORLD_SIZE"
    if not has_compiler:
        return "it is compiled on first use, and there is no C++ compiler (c++ or g++) on PATH"
    if not has_ninja:
        return "it is compiled on first use, and there is no ninja on PATH (pip install ninja)"
    return ""


def choose_when_joining(torch_backend: ModuleType, wanted: str, *, has_gpu: bool) -> None:
    """Let DeepSpeed's backend ask `choose_all_reduce` when the ranks join, not before: many never do.

    Args:
        torch_backend: `deepspeed.comm.torch`, whose `build_shm_op` returns the compiled operator or None.
        wanted: `option.all_reduce`.
    """
    original: Callable[[], Any] = torch_backend.build_shm_op

    def build_shm_op() -> Any:
        chosen, reason = choose_all_reduce(
            wanted,
            environ=os.environ,
            has_compiler=any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++")),
            has_ninja=shutil.which("ninja") is not None,
            has_gpu=has_gpu,
        )
        if not has_gpu:  # there NCCL does it
            _log.info("all_reduce_chosen kind=%s reason=%r", chosen, reason)
        return _NamelessMemory(_build_alone(original)) if chosen == "shm" else None

    torch_backend.build_shm_op = build_shm_op  # type: ignore[attr-defined]  # a module's function, replaced


def _build_alone(build: Callable[[], Any]) -> Any:
    """Compile DeepSpeed's operator, 45 s once, or load what was compiled before.

    torch leaves a file `lock` when the process that compiles is killed, and everybody after it waits for
    ever. So ranks compile under a lock that ends with its process, and who has it may remove torch's.
    """
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(_SHM_OP, verbose=False))
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "frame.lock"):
        (folder / "lock").unlink(missing_ok=True)
        return build()


class _NamelessMemory:
    """DeepSpeed's operator, whose memory goes with its processes, however they end.

    DeepSpeed names 66 MiB a rank in /dev/shm by address and port and never takes the names away: they stay
    when the group ends, and a group that gets the port again may map what an earlier one left.
    """

    def __init__(self, operator: Any) -> None:
        self._operator = operator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)

    def initialize(self, size: int, rank: int) -> None:
        """Map the memory of all ranks, then remove this rank's name for it."""
        import torch

        own = _memory_file(rank)
        own.unlink(missing_ok=True)
        torch.distributed.barrier()  # nobody maps what is left of an earlier group
        self._operator.initialize(size, rank)
        torch.distributed.barrier()  # all have mapped it
        own.unlink(missing_ok=True)


def _memory_file(rank: int) -> Path:
    """Return the file of DeepSpeed's all-reduce buffer (its csrc/cpu/comm/shm.cpp)."""
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}")  # noqa: S108


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which the system gives back when the process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def own_device(devices: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return this rank's device of its group's: the one at LOCAL_RANK, `cpu` when there is none.

    Every rank sees all devices of its group, so that a handler may use its LOCAL_RANK as the device's number.
    """
    return devices[int(environ.get("LOCAL_RANK") or 0) % len(devices)] if devices else "cpu"


def join_ranks(world_size: int) -> None:
    """Join the group's ranks by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Idempotent."""
    if world_size > 1:
        import deepspeed.comm

        deepspeed.comm.init_distributed(auto_mpi_discovery=False, verbose=False)


def share_first(value: Any) -> Any:
    """Return what rank 0 gave, on all ranks; all must call it."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def leave_ranks() -> None:
    """Leave the group's ranks once none of them runs anything more; for an ordered end only.

    Rank 0 has the store that the others talk to: with gloo it must not be the first to go. When a rank is
    missing this gives up after 5 s; with NCCL the deadline of the drain ends it.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    distributed = torch.distributed
    with contextlib.suppress(RuntimeError):
        if distributed.get_backend() == "gloo":
            distributed.monitored_barrier(timeout=timedelta(seconds=_LEAVE_SECONDS))
        distributed.destroy_process_group()

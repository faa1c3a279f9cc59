"""Add up what ranks on GPUs have computed of a step: through memory that they can read of each other.

A step of one token adds up a few kilobytes in every layer. NCCL takes longer for that than the links need:
most of it is agreeing on who sends when. Where GPUs of one host can read each other's memory, each reads the
others' parts and adds them up itself, by PyTorch's symmetric memory.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

_log = logging.getLogger(__name__)
WORK_DTYPE = torch.float32
"""PyTorch's kernel adds float32 and bfloat16 alone; a sum in float32 is rounded once."""


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Memory of each rank of a group that the others can read.

    Attributes:
        buffer: `WORK_DTYPE` [numbers] on this rank's device.
        group: the group's name.
    """

    buffer: torch.Tensor
    group: str


def share_rows(group: Any, *, rows: int, width: int, device: torch.device) -> SharedRows | None:
    """Return memory for sums of `rows` rows of `width` numbers; None where GPUs cannot read each other's.

    All ranks of the group must call it; all get memory, or none does.
    """
    why = _why_not(group, device)
    buffer = None
    if not why:
        from torch.distributed import _symmetric_memory as symmetric_memory

        try:
            buffer = symmetric_memory.empty(rows * width, dtype=WORK_DTYPE, device=device)
        except RuntimeError as error:
            why = _first_line(error)
    if _is_on_all(buffer is not None, group, device):  # else some would wait for the others
        try:
            symmetric_memory.rendezvous(buffer, group)
        except RuntimeError as error:
            why = _first_line(error)
        if _is_on_all(not why, group, device):
            _log.info("rank_sums kind=symmetric_memory rows=%d", rows)
            return SharedRows(buffer, group.group_name)
    _log.info("rank_sums kind=all_reduce reason=%r", why or "another rank cannot")
    return None


def add_up(values: torch.Tensor, buffer: torch.Tensor, group: str) -> torch.Tensor:
    """Return the sum of all ranks' values in `WORK_DTYPE`; may be compiled and captured."""
    wide = values.to(WORK_DTYPE).contiguous()
    total: torch.Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(
        buffer[: wide.numel()].view(wide.shape), wide, "sum", group
    )
    return total


def _is_on_all(mine: bool, group: Any, device: torch.device) -> bool:  # noqa: FBT001  # what is told
    """Tell whether something is so on all ranks."""
    least = torch.tensor([int(mine)], dtype=torch.int32, device=device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN, group=group)
    return bool(least.item())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _why_not(group: Any, device: torch.device) -> str:
    """Return what the ranks lack to read each other's memory; "" when nothing."""
    if device.type != "cuda":
        return "it is for ranks on GPUs"
    if not hasattr(torch.ops.symm_mem, "one_shot_all_reduce_copy"):
        return f"torch {torch.__version__} cannot"
    size = torch.distributed.get_world_size(group)
    if os.environ.get("LOCAL_SIZE") != os.environ.get("WORLD_SIZE"):
        return "the ranks are on several hosts"
    others = [number for number in range(torch.cuda.device_count()) if number != device.index]
    if len(others) + 1 < size or not all(torch.cuda.can_device_access_peer(device, n) for n in others):
        return "the GPUs cannot read each other's memory"
    return ""

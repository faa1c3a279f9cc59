"""Attention of a few new tokens over a long cache, written so that the compiler fuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "frame_step"
"""What it is called in transformers' table of attention functions."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Return softmax(q k' scale + mask) v as [batch, new, heads, head_dim], in `query`'s dtype.

    Args:
        query: [batch, heads, new, head_dim].
        key, value: [batch, kv_heads, length, head_dim]; kv_heads divides heads.
        mask: [batch, 1, new, length], added to the scores; None: causal from the first column.
    """
    from torch.nn import functional

    alone = query.shape[0] == 1 or key.shape[1] != query.shape[1]
    if query.shape[2] == 1 and mask is not None and alone:
        return _one_query(query, key, value, mask, scale)
    answer = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return answer.transpose(1, 2)


def _one_query(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend with one query a sequence, as products and sums in float32.

    A matrix product of one row wastes the matrix unit, and torch's fused kernels give one sequence's head one
    multiprocessor: at batch 1 most of the chip idles. As sums the compiler spreads it over all of it. Where
    several query heads share keys, torch's kernels take no mask.
    """
    import torch

    batch, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.view(batch, kv_heads, heads // kv_heads, 1, dim)
    scores = (grouped.float() * key[:, :, None].float()).sum(-1) * scale
    weights = torch.softmax(scores + mask[:, :, None, 0].float(), dim=-1)
    answer = (weights[..., None] * value[:, :, None].float()).sum(-2)
    return answer.to(query.dtype).reshape(batch, 1, heads, value.shape[-1])


def attention_function(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Be one of transformers' `ALL_ATTENTION_FUNCTIONS`."""
    del module
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, attention_mask, scale), None


def use_in(model: Any) -> Callable[[], None]:
    """Let a model of transformers attend this way, unless its code has attention of its own.

    Returns:
        What lets it attend as before.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return lambda: None
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention_function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    config, before = model.config, model.config._attn_implementation  # noqa: SLF001

    def restore() -> None:
        config._attn_implementation = before  # noqa: SLF001

    config._attn_implementation = NAME  # noqa: SLF001  # set_attn_implementation would look for a kernel
    return restore

"""GPT-J's block with two matrix products instead of six: for steps that only read weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from frame_python.handlers.rank_sums import SharedRows, add_up, share_rows
from frame_python.handlers.step_attention import attend


class FusedGPTJBlock(nn.Module):  # type: ignore[misc]  # torch's module is not typed here
    """A GPT-J block over the weights of another, which become views of the joined ones.

    Attention and MLP of GPT-J read the same normed input and are added to the same residual. So the four
    products that read it are one, and so are the two that write: a step of one token, which does little but
    read weights, starts six times fewer readings that are too short to fill the memory bus. Cut over ranks,
    the block also needs one all-reduce instead of two.

    Args:
        block: transformers' GPTJBlock, or the same with its linear layers cut by DeepSpeed.
        group: ranks that hold the other parts of this block; None when it is whole.
        shared: memory for the sums of steps; None: all by the group's all-reduce, as prompts always are.
    """

    def __init__(self, block: Any, group: Any = None, shared: SharedRows | None = None) -> None:
        super().__init__()
        attn, mlp = block.attn, block.mlp
        self.ln_1, self.act = block.ln_1, mlp.act
        self.layer_idx, self.group = attn.layer_idx, group
        self.shared_group = shared.group if shared else ""
        self.register_buffer("shared_rows", shared.buffer if shared else None, persistent=False)
        self.head_dim, self.rotary_dim = attn.head_dim, attn.rotary_dim or attn.embed_dim
        self.width = attn.q_proj.weight.shape[0]
        self.w_in = _join([attn.q_proj, attn.k_proj, attn.v_proj, mlp.fc_in], dim=0)
        self.w_out = _join([attn.out_proj, mlp.fc_out], dim=1)
        self.b_in, self.b_out = mlp.fc_in.bias, mlp.fc_out.bias
        self.register_buffer("embed_positions", attn.embed_positions, persistent=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layer_past: Any = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Be GPTJBlock.forward: hidden states [batch, new, embed], mask added to the scores."""
        batch, new, _embed = hidden_states.shape
        joined = functional.linear(_normed(self.ln_1, hidden_states), self.w_in)
        heads = joined[..., : 3 * self.width].view(batch, new, 3, -1, self.head_dim)
        assert position_ids is not None
        turns = self.embed_positions[position_ids].to(
            joined.dtype
        )  # [batch, new, rotary_dim]: sines, then cosines
        query, key = (self._rotate(heads[:, :, i], turns).transpose(1, 2) for i in (0, 1))
        value = heads[:, :, 2].transpose(1, 2)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        attended = attend(query, key, value, attention_mask, self.head_dim**-0.5).reshape(batch, new, -1)
        inner = self.act(joined[..., 3 * self.width :] + self.b_in)
        out = functional.linear(torch.cat([attended, inner], dim=-1), self.w_out)
        if self.shared_rows is not None and new == 1:
            total = add_up(out, self.shared_rows, self.shared_group) + self.b_out + hidden_states
            return total.to(hidden_states.dtype), None
        if self.group is not None:
            torch.distributed.all_reduce(out, group=self.group)
        return out + self.b_out + hidden_states, None

    def _rotate(self, heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Turn pairs of the first `rotary_dim` of each head, [batch, new, heads, head_dim]."""
        sin, cos = (half[:, :, None].repeat_interleave(2, dim=3) for half in turns.chunk(2, dim=-1))
        turned, rest = heads[..., : self.rotary_dim], heads[..., self.rotary_dim :]
        crossed = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
        return torch.cat((turned * cos + crossed * sin, rest), dim=-1)


def _normed(norm: nn.LayerNorm, values: torch.Tensor) -> torch.Tensor:
    """Return `norm(values)`, in two passes of float32: of one row they are quicker than Welford's one."""
    wide = values.float()
    centred = wide - wide.mean(-1, keepdim=True)
    scaled = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + norm.eps)
    return (scaled * norm.weight + norm.bias).to(values.dtype)


def _join(layers: list[Any], dim: int) -> nn.Parameter:
    """Join the weights of linear layers, and make theirs views of it: no weight is there twice."""
    joined = torch.cat([layer.weight.data for layer in layers], dim=dim)
    sizes = [layer.weight.shape[dim] for layer in layers]
    for layer, part in zip(layers, joined.split(sizes, dim=dim), strict=True):
        layer.weight.data = part
    return nn.Parameter(joined, requires_grad=False)


def fuse(model: Any, group: Any = None, *, rows: int = 0) -> bool:
    """Replace the blocks of a GPT-J model in place; False when it is another, or its weights are packed.

    Args:
        group: see `FusedGPTJBlock`; None: the one that DeepSpeed's layers know.
        rows: sequences of the largest step, whose sums go through shared memory if they can; 0: none.
    """
    blocks = getattr(getattr(model, "transformer", None), "h", None)
    if blocks is None or getattr(model.config, "model_type", "") != "gptj":
        return False
    if not all(_is_plain(block) for block in blocks):
        return False
    group = group or _group_of(blocks[0])
    shared = None
    if group is not None and rows:
        norm = blocks[0].ln_1.weight
        shared = share_rows(group, rows=rows, width=norm.shape[0], device=norm.device)
    for index, block in enumerate(blocks):
        blocks[index] = FusedGPTJBlock(block, group, shared)
    return True


def _is_plain(block: Any) -> bool:
    """Whether a block's products are those of plain matrices: not fused before, quantized or replaced."""
    if not (hasattr(block, "attn") and hasattr(block, "mlp") and hasattr(block.attn, "q_proj")):
        return False
    attn, mlp = block.attn, block.mlp
    weights = [
        layer.weight
        for layer in (attn.q_proj, attn.k_proj, attn.v_proj, attn.out_proj, mlp.fc_in, mlp.fc_out)
    ]
    return all(weight.dtype == block.ln_1.weight.dtype for weight in weights)


def _group_of(block: Any) -> Any:
    """Return the group over which DeepSpeed has cut a block; None when it is whole."""
    group = getattr(block.attn.out_proj, "mp_group", None)
    if group is None or torch.distributed.get_world_size(group) == 1:
        return None
    return group

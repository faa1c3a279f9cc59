"""Keys and values of all slots in static tensors, given to transformers as `past_key_values`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PADDING = 8
"""Columns after the last position; the first of them is where rows that take no part write."""


def write(
    kept: torch.Tensor, new: torch.Tensor, rows: torch.Tensor | None, positions: torch.Tensor, length: int
) -> torch.Tensor:
    """Store new keys (or values) and return those of the same rows, the new among them.

    Args:
        kept: [slots, heads, columns, head_dim], changed in place.
        new: [batch, heads, new, head_dim].
        rows: int64 [batch], where each row of `new` belongs; None: row 0 to the first `batch` rows.
        positions: int64 [batch, new], the column of each.
        length: columns to return, from the first.

    Returns:
        [batch, heads, length, head_dim], a view when `rows` is None.
    """
    import torch

    batch = new.shape[0]
    index = torch.arange(batch, device=new.device) if rows is None else rows
    kept[index[:, None], :, positions] = new.transpose(1, 2).to(kept.dtype)
    chosen = kept[:batch] if rows is None else kept.index_select(0, rows)
    return chosen[:, :, :length]


class LayerCache:
    """What one layer sees of the cache during one call; the layer's own number does not count."""

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: torch.Tensor | None,
        positions: torch.Tensor,
        length: int,
    ) -> None:
        self.keys, self.values = keys, values
        self.rows, self.positions, self.length = rows, positions, length

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int = 0, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new keys and values, [batch, heads, new, head_dim], and return all up to `length`."""
        del layer_idx
        return (
            write(self.keys, keys, self.rows, self.positions, self.length),
            write(self.values, values, self.rows, self.positions, self.length),
        )


class StepCache:
    """The cache of every layer: what is passed as `past_key_values`.

    Invariants:
        - The tensors are made once and never move, so that a captured graph stays valid.
        - Rows belong to whoever calls; `rows`, `positions` and `length` say what the next call is about.
    """

    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep `keys` and `values`: [layers, slots, heads, max_length + PADDING, head_dim]."""
        self.keys, self.values = keys, values
        self.rows: torch.Tensor | None = None
        self.positions: torch.Tensor | None = None
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """Return the part of layer `index`."""
        assert self.positions is not None
        return LayerCache(self.keys[index], self.values[index], self.rows, self.positions, self.length)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers calls it from a layer that was not compiled on its own."""
        return self.layer(layer_idx).update(keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions and mask are always given."""
        del layer_idx
        return 0

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` columns of two rows."""
        for kept in (self.keys, self.values):
            saved = kept[:, one, :, :length].clone()
            kept[:, one, :, :length] = kept[:, other, :, :length]
            kept[:, other, :, :length] = saved


class ShapeProbe:
    """A cache that keeps nothing and notes the shapes that each layer brings."""

    is_compileable = False

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
        """Layer -> (heads, head_dim) of the keys and of the values."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Note the shapes."""
        self.shapes[layer_idx] = ((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3]))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0, as nothing is kept."""
        del layer_idx
        return 0


def allocate(model: Any, *, slots: int, max_length: int) -> StepCache:
    """Make the cache for a model on its device, from what one token through it shows.

    A sharded model has fewer heads on each rank than its configuration says, so it is asked.

    Raises:
        ValueError: the layers differ in shape, or keep nothing here.
    """
    import torch

    parameter = next(model.parameters())
    probe, device = ShapeProbe(), parameter.device
    zeros = torch.zeros((1, 1), dtype=torch.int64, device=device)
    mask = torch.zeros((1, 1, 1, 1), dtype=parameter.dtype, device=device)
    model(input_ids=zeros, attention_mask=mask, position_ids=zeros, past_key_values=probe, use_cache=True)
    if len(set(probe.shapes.values())) != 1:
        kinds = len(set(probe.shapes.values()))
        message = f"{type(model).__name__}: its layers keep {kinds} kinds of keys, not one"
        raise ValueError(message)
    (key_heads, key_dim), (value_heads, value_dim) = probe.shapes[0]
    columns = max_length + PADDING

    def zeroed(heads: int, dim: int) -> torch.Tensor:
        # Zeros, as what a mask hides is still multiplied by nought: a NaN there would stay one.
        shape = (len(probe.shapes), slots, heads, columns, dim)
        return torch.zeros(shape, dtype=parameter.dtype, device=device)

    return StepCache(zeroed(key_heads, key_dim), zeroed(value_heads, value_dim))

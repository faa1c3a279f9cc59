"""Keys and values of several sequences in static tensors, as a transformers `Cache`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_VIEWS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
_NUMPY = {torch.int32: "int32", torch.int16: "int16"}


@dataclass(frozen=True, slots=True)
class PrefillTarget:
    """The next update is of one row: tokens of one sequence from position `start` on."""

    row: int
    start: int


@dataclass(frozen=True, slots=True)
class DecodeTarget:
    """The next update is of one token for each of the first rows.

    Attributes:
        positions: int64 [rows], on the cache's device: where each row's token goes. Read by the update
            itself, so that a captured step sees what was copied into it.
        length: how many positions attention looks at, >= the largest position that counts + 1.
    """

    positions: torch.Tensor
    length: int


@dataclass(slots=True)
class _Shared:
    """What all layers of a cache go by."""

    rows: int
    max_length: int
    target: PrefillTarget | DecodeTarget = field(default_factory=lambda: PrefillTarget(0, 0))


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' own
    """One layer's keys [rows, heads, max_length, key_dim] and values [rows, heads, max_length, value_dim].

    Allocated once, from the shapes of the first update: a sharded module has fewer heads on each rank, and
    keys and values may differ. Never moved or grown: a captured step keeps their addresses.
    """

    is_compileable = True

    def __init__(self, shared: _Shared) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        self._shared = shared

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate both tensors, zeros."""
        rows, length = self._shared.rows, self._shared.max_length
        self.keys, self.values = (
            zeros((rows, states.shape[1], length, states.shape[3]), states)
            for states in (key_states, value_states)
        )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states where the target says; return what attention looks at."""
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values, target = self.keys, self.values, self._shared.target
        assert keys is not None
        assert values is not None
        if isinstance(target, PrefillTarget):
            end = target.start + key_states.shape[2]
            keys[target.row, :, target.start : end] = key_states[0]
            values[target.row, :, target.start : end] = value_states[0]
            row = slice(target.row, target.row + 1)
            return keys[row, :, :end], values[row, :, :end]
        rows = key_states.shape[0]
        index = torch.arange(rows, device=keys.device)
        keys[index, :, target.positions] = key_states[:, :, 0]
        values[index, :, target.positions] = value_states[:, :, 0]
        return keys[:rows, :, : target.length], values[:rows, :, : target.length]

    def exchange(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` positions of two rows."""
        for states in (self.keys, self.values):
            if states is not None:
                saved = states[one, :, :length].clone()
                states[one, :, :length] = states[other, :, :length]
                states[other, :, :length] = saved

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length and offset of what an update returns."""
        target = self._shared.target
        length = target.start + query_length if isinstance(target, PrefillTarget) else target.length
        return length, 0

    def get_seq_length(self) -> int:
        """Return 0: rows have no common length; positions and masks are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the positions of a row."""
        return self._shared.max_length

    def get_max_cache_shape(self) -> int:
        """Return the positions of a row: the older name, abstract in transformers before 5.20."""
        return self._shared.max_length


class SlotCache(Cache):
    """The cache of all layers. Say what the next call of the model updates, then call the model.

    Invariant: an update writes nothing outside its target's rows and positions.
    """

    def __init__(self, rows: int, max_length: int) -> None:
        self._shared = _Shared(rows, max_length)
        make: Any = partial(SlotLayer, self._shared)
        super().__init__(layer_class_to_replicate=make)

    def aim(self, target: PrefillTarget | DecodeTarget) -> None:
        """Set what the next call updates."""
        self._shared.target = target

    def exchange(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` positions of two rows, in all layers."""
        for layer in self.layers:
            assert isinstance(layer, SlotLayer)
            layer.exchange(one, other, length)


def zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Return zeros of the dtype and device of `like`.

    On the CPU their memory is taken when it is first written: a server with room for 32 long sequences that
    runs one pays for one. (`torch.zeros` writes them all.)
    """
    view = _VIEWS.get(like.dtype)
    if like.device.type != "cpu" or view is None:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    import numpy as np  # its zeros are calloc's

    return torch.from_numpy(np.zeros(shape, _NUMPY[view])).view(like.dtype)

"""How inputs of different lengths are brought to one: the rule that the router and the workers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frame.contract.signatures import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How long a padded axis gets, and what is put there; with no rule, as long as the batch's longest.

    Attributes:
        multiple: the next multiple of this, >= 1; 0 for no such rule.
        lengths: the smallest of these that is long enough, in rising order; a longer request is refused.
        values: what an input is padded with, by name; 0 for the others.
        mask: the input that gets 1 where data are and 0 where padding is.
    """

    multiple: int = 0
    lengths: tuple[int, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    mask: str | None = None

    @property
    def is_by_batch(self) -> bool:
        """Whether the length depends on the requests that run together."""
        return not self.multiple and not self.lengths

    def length_of(self, own: int) -> int | None:
        """Return what a request of this length alone is padded to; None when it is too long."""
        if self.lengths:
            return next((length for length in self.lengths if length >= own), None)
        return -(-own // self.multiple) * self.multiple if self.multiple else own

    def to_json(self) -> dict[str, Any]:
        """Return it as a plain JSON object."""
        values = dict(self.values)
        return {"multiple": self.multiple, "lengths": list(self.lengths), "values": values, "mask": self.mask}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Padding:
        """Read what `to_json` wrote."""
        return cls(**{**plain, "lengths": tuple(plain["lengths"])})


def free_axes(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the axes of a signature's shape that may be padded: the free ones, but not the rows."""
    return tuple(axis for axis, size in enumerate(shape or ()) if axis and size == -1)


def mask_source(signature: Signature, mask: str) -> tuple[str, int] | None:
    """Return the input and its axis that give a mask its length, None when there is none.

    It is the first input, in the signature's order, whose axis 1 is free; failing that, the first free axis
    of all.
    """
    free = [
        (spec.name, axis) for spec in signature.inputs if spec.name != mask for axis in free_axes(spec.shape)
    ]
    return next((found for found in free if found[1] == 1), free[0] if free else None)

"""An ordered list of keys and values in which a key may come twice: the content of inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class PairList:
    """Keys and values side by side, in order. Keys may repeat or be None; `get` finds the first."""

    def __init__(
        self,
        keys: Iterable[str | None] | None = None,
        values: Iterable[Any] | None = None,
        pair_list: Iterable[tuple[str | None, Any]] | None = None,
        pair_map: Mapping[str, Any] | None = None,
    ) -> None:
        self.keys: list[str | None] = list(keys or ())
        self.values: list[Any] = list(values or ())
        if len(self.keys) != len(self.values):
            raise ValueError("key value size mismatch.")
        for key, value in [*(pair_list or ()), *(pair_map or {}).items()]:
            self.add(key, value)

    def add(
        self,
        key: str | None = None,
        value: Any = None,
        index: int | None = None,
        pair: tuple[str | None, Any] | None = None,
    ) -> None:
        """Append a key and its value, or a pair; `index` inserts before that position."""
        if pair is not None:
            key, value = pair
        position = len(self.keys) if index is None else index
        self.keys.insert(position, key)
        self.values.insert(position, value)

    def add_all(self, other: PairList) -> None:
        """Append all pairs of another list."""
        self.keys.extend(other.keys)
        self.values.extend(other.values)

    def size(self) -> int:
        """Return the number of pairs."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """Tell whether there is no pair."""
        return not self.keys

    def contains(self, key: str | None) -> bool:
        """Tell whether a pair has this key."""
        return key in self.keys

    def get(self, key: str | None) -> Any:
        """Return the value of the first pair with this key, or None."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> str | None:
        """Return the key at a position."""
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """Return the value at a position."""
        return self.values[index]

    def get_keys(self) -> list[str | None]:
        """Return the keys in order."""
        return self.keys

    def get_values(self) -> list[Any]:
        """Return the values in order."""
        return self.values

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        return iter(list(zip(self.keys, self.values, strict=True)))

    def __repr__(self) -> str:
        return f"PairList({list(self)!r})"

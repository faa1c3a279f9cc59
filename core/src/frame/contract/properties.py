"""A case-insensitive, read-only mapping of strings: headers and options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Properties(Mapping[str, str]):
    """Strings by case-insensitive key; iteration gives keys as they were written, the last duplicate wins."""

    __slots__ = ("_by_key",)

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._by_key = {key.lower(): (key, value) for key, value in (items or {}).items()}

    def __getitem__(self, key: str) -> str:
        return self._by_key[key.lower()][1]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._by_key

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"Properties({dict(self)!r})"

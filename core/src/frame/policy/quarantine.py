"""Requests that ended two workers are known by a digest and refused for a while."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

MOST_DIGESTS = 1024
"""Digests that are kept: who sends ever new poison cannot make the list grow."""


@dataclass(frozen=True, slots=True)
class _Entry:
    size_bytes: int
    until: float


class Quarantine:
    """Digests of the requests that are refused, with the time until which.

    Invariants:
      * a digest is refused from `add` for `seconds`, unless `MOST_DIGESTS` later ones pushed it out;
      * `sizes` are those of the digests that are held, and sometimes of one whose time is over;
      * a request of no bytes is never held: nothing tells it from any other.
    """

    def __init__(self, seconds: float, most: int = MOST_DIGESTS) -> None:
        """Refuse for `seconds`, 0 for never; hold `most` digests, >= 1."""
        self.seconds = seconds
        self._most = most
        self._entries: dict[bytes, _Entry] = {}
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def sizes(self) -> Collection[int]:
        """Sizes in bytes of what is held."""
        return self._sizes.keys()

    def add(self, digest: bytes, size_bytes: int, now: float) -> None:
        """Refuse a request from now on; one that is held already is held from now."""
        if self.seconds <= 0 or size_bytes <= 0:
            return
        self._forget_old(now)
        if digest in self._entries:
            self._forget(digest)
        elif len(self._entries) >= self._most:
            self._forget(next(iter(self._entries)))
        self._entries[digest] = _Entry(size_bytes, now + self.seconds)
        self._sizes[size_bytes] = self._sizes.get(size_bytes, 0) + 1

    def may_hold(self, size_bytes: int) -> bool:
        """Tell whether a request of this size may be held: only then its digest is worth its time."""
        return size_bytes in self._sizes

    def seconds_left(self, digest: bytes, now: float) -> float | None:
        """Return for how long a request is still refused; None when it is not."""
        self._forget_old(now)
        entry = self._entries.get(digest)
        return None if entry is None else entry.until - now

    def _forget_old(self, now: float) -> None:
        """Forget what is over: all are held for the same time, so the oldest come first."""
        while self._entries:
            digest, entry = next(iter(self._entries.items()))
            if entry.until > now:
                return
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        size = self._entries.pop(digest).size_bytes
        self._sizes[size] -= 1
        if not self._sizes[size]:
            del self._sizes[size]

"""How many bytes of request bodies may be in the router at once."""

from __future__ import annotations


class ByteBudget:
    """Bytes that waiting and running requests hold. Invariant: `0 <= used <= limit`."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size_bytes: int) -> bool:
        """Take bytes if there is room for them."""
        if self.used + size_bytes > self.limit:
            return False
        self.used += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Return bytes that were taken."""
        self.used -= size_bytes
        assert self.used >= 0

"""What was measured of batches (being written)."""

from __future__ import annotations


class ServiceTimes:
    """Mean seconds of a batch."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def observe(self, size: int, seconds: float, now: float) -> None:  # noqa: ARG002
        """Count a batch."""
        self._mean = seconds if self._mean is None else self._mean * 0.9 + seconds * 0.1

    def arrived(self, now: float) -> None:
        """Count a request."""

    def mean(self, size: int) -> float | None:  # noqa: ARG002
        """Return the mean."""
        return self._mean

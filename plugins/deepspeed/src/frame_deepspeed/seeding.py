"""Seed the random generators that a handler may use, alike on all ranks of a group."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

_MASK = (1 << 63) - 1
_MULTIPLIER = 6364136223846793005  # Knuth's MMIX: mixes the seeds of a batch in their order


def combined_seed(seeds: Sequence[int]) -> int:
    """Return one seed, 0 to 2**63 - 1, for a call that answers these requests: its own for one alone."""
    seed = seeds[0] if seeds else 0
    for other in seeds[1:]:
        seed = (seed * _MULTIPLIER + other + 1) & _MASK
    return seed


def seed_generators(seed: int) -> None:
    """Seed Python's generator, and NumPy's and torch's where they were imported.

    Ranks of a group draw the same numbers only while every rank draws equally often. One that draws a single
    number more would choose other tokens from then on; seeding before each call ends that with the call.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)

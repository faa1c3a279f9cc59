"""The seed of each request: the client's, or one that is the same on all ranks of a group."""

from __future__ import annotations

from collections.abc import Mapping

from frame.contract.requests import RequestError

SEED_HEADER = "x-frame-seed"
SEED_BITS = 63
_WORD = (1 << 64) - 1


def seed_for(base: int, position: int) -> int:
    """Return the seed of the job at a position of a batch whose base is 0 to 2**63 - 1.

    The mixing step of SplitMix64 (Steele, Lea, Flood 2014), so that neighbours have nothing in common.
    """
    value = (base + (position + 1) * 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return (value ^ (value >> 31)) >> (64 - SEED_BITS)


def requested_seed(properties: Mapping[str, str]) -> int | None:
    """Return the seed that a client asked for, None when it asked for none.

    Raises:
        RequestError: 400, what it sent is none.
    """
    if SEED_HEADER not in properties:  # `get` would raise and catch a KeyError for nearly every request
        return None
    digits = properties[SEED_HEADER].strip()
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > SEED_BITS or int(digits) >> SEED_BITS:
        raise RequestError(400, f"{SEED_HEADER}: expected a whole number from 0 to 2**63 - 1")
    return int(digits)

"""How a model's workers are spread over its places (a device, or a set of devices for one group)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceCount:
    """A place's fewest and most workers, and how many it has or will have."""

    minimum: int
    maximum: int
    planned: int


def missing_on_places(places: Sequence[PlaceCount]) -> int:
    """Return how many workers the places that have fewer than their minimum lack together."""
    return sum(max(0, place.minimum - place.planned) for place in places)


def spread(target: int, places: Sequence[PlaceCount]) -> list[int]:
    """Return how many workers each place should have, in the order of `places`.

    Every place gets its minimum, whatever the target; beyond it the place with the fewest grows first, and
    the one with the most shrinks first. No place gets more than its maximum.
    """
    counts = [min(max(place.planned, place.minimum), place.maximum) for place in places]
    while sum(counts) < target:
        room = [index for index, place in enumerate(places) if counts[index] < place.maximum]
        if not room:
            break
        counts[min(room, key=counts.__getitem__)] += 1
    while sum(counts) > target:
        surplus = [index for index, place in enumerate(places) if counts[index] > place.minimum]
        if not surplus:
            break
        counts[max(surplus, key=counts.__getitem__)] -= 1
    return counts

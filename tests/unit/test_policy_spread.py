"""Workers are spread evenly over places, within the limits of each."""

from __future__ import annotations

from frame.policy.spread import PlaceCount, spread
from hypothesis import given
from hypothesis import strategies as st


def place(minimum: int = 0, maximum: int = 4, planned: int = 0) -> PlaceCount:
    return PlaceCount(minimum=minimum, maximum=maximum, planned=planned)


def test_the_place_with_the_fewest_grows_first_and_the_first_of_equals() -> None:
    assert spread(1, [place(), place()]) == [1, 0]
    assert spread(3, [place(planned=2), place()]) == [2, 1]


def test_the_place_with_the_most_shrinks_first() -> None:
    assert spread(2, [place(planned=1), place(planned=3)]) == [1, 1]


def test_a_full_place_takes_no_more() -> None:
    assert spread(9, [place(maximum=1), place(maximum=3)]) == [1, 3]


def test_every_place_has_its_minimum_whatever_the_target() -> None:
    assert spread(0, [place(minimum=1), place(minimum=2, planned=4)]) == [1, 2]


@st.composite
def places(draw: st.DrawFn) -> list[PlaceCount]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        maximum = draw(st.integers(0, 5))
        found.append(place(draw(st.integers(0, maximum)), maximum, draw(st.integers(0, maximum))))
    return found


@given(places(), st.integers(0, 25))
def test_the_target_is_reached_as_far_as_the_limits_allow(found: list[PlaceCount], target: int) -> None:
    counts = spread(target, found)
    assert all(item.minimum <= count <= item.maximum for item, count in zip(found, counts, strict=True))
    least, most = sum(item.minimum for item in found), sum(item.maximum for item in found)
    assert sum(counts) == min(max(target, least), most)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 25))
def test_empty_places_fill_evenly(limits: list[int], target: int) -> None:
    counts = spread(target, [place(maximum=limit) for limit in limits])
    unfilled = [count for count, limit in zip(counts, limits, strict=True) if count < limit]
    assert all(count <= least + 1 for count in counts for least in unfilled)

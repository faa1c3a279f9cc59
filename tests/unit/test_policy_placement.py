"""Where a group may start, by what is free, what is coming and what may go."""

from __future__ import annotations

import pytest
from frame.policy.placement import (
    Admit,
    InFlight,
    Loaded,
    Memory,
    Need,
    Refuse,
    StartRequest,
    Unload,
    WaitForStarts,
    decide_start,
    share_threads,
)


def start(*devices: str, measured: dict[str, int] | None = None, **needs: Need) -> StartRequest:
    return StartRequest(key="m", devices=devices or ("cpu",), needs=needs, measured_mb=measured or {})


def model(
    key: str, last_used: float = 1.0, leases: int = 0, may_unload: bool = True, **measured: int
) -> Loaded:
    return Loaded(
        key=key,
        devices=tuple(measured),
        measured_mb=measured,
        last_used=last_used,
        leases=leases,
        may_unload=may_unload,
    )


def leaving(key: str, **measured: int) -> Loaded:
    return Loaded(
        key=key,
        devices=tuple(measured),
        measured_mb=measured,
        last_used=0.0,
        leases=0,
        may_unload=True,
        is_leaving=True,
    )


NINE_HUNDRED = start(cpu=Need(900, 500))
FREE_700 = {"cpu": Memory(700, 4000)}
WHY = "needs 900 MB on cpu and 500 MB must stay free; 700 MB are free"


# --- memory ---------------------------------------------------------------------------------------------


def test_what_is_required_and_reserved_is_enough() -> None:
    assert decide_start(NINE_HUNDRED, {"cpu": Memory(1400, 4000)}, [], []) == Admit({"cpu": 900})


def test_a_refusal_has_the_figures() -> None:
    assert decide_start(NINE_HUNDRED, FREE_700, [], []) == Refuse(WHY)


def test_more_than_there_is_at_all_unloads_nothing() -> None:
    choice = decide_start(NINE_HUNDRED, {"cpu": Memory(700, 1000)}, [], [model("a", cpu=9000)])
    assert choice == Refuse(f"{WHY}, there are 1000 MB in all")


def test_without_a_figure_the_reserve_alone_is_checked() -> None:
    unknown = start(cpu=Need(0, 500))
    assert decide_start(unknown, {"cpu": Memory(500, 4000)}, [], []) == Admit({})
    assert isinstance(decide_start(unknown, {"cpu": Memory(499)}, [], []), Refuse)


def test_what_was_measured_counts_where_nothing_is_required() -> None:
    assert decide_start(start(measured={"cpu": 900}), FREE_700, [], []) == Refuse(
        "needs 900 MB on cpu and 0 MB must stay free; 700 MB are free"
    )
    given = start(measured={"cpu": 900}, cpu=Need(600, 0))
    assert decide_start(given, FREE_700, [], []) == Admit({"cpu": 600})


def test_a_group_on_gpus_is_checked_on_each_and_on_the_cpu() -> None:
    pair = start("gpu0", "gpu1", gpu=Need(100, 10), cpu=Need(50, 5))
    enough = {"gpu0": Memory(110), "gpu1": Memory(110), "cpu": Memory(55)}
    assert decide_start(pair, enough, [], []) == Admit({"gpu0": 100, "gpu1": 100, "cpu": 50})
    for place, there in enough.items():
        free = there.free_mb
        assert free is not None
        choice = decide_start(pair, {**enough, place: Memory(free - 1)}, [], [])
        assert isinstance(choice, Refuse)
        assert f"MB on {place} and" in choice.reason


def test_a_gpu_that_cannot_be_read_refuses_what_requires_memory() -> None:
    memory = {"cpu": Memory(1000), "gpu0": Memory(None, None)}
    assert decide_start(start("gpu0", gpu=Need(0, 500)), memory, [], []) == Admit({})
    assert decide_start(start("gpu0", gpu=Need(1, 0)), memory, [], []) == Refuse(
        "needs 1 MB on gpu0, whose memory cannot be read"
    )
    assert isinstance(decide_start(start("gpu1", gpu=Need(1, 0)), memory, [], []), Refuse)


# --- starts under way and models that leave --------------------------------------------------------------


def test_a_start_under_way_takes_its_part() -> None:
    coming = [InFlight(("cpu",), {"cpu": 300})]
    choice = decide_start(start(cpu=Need(500, 0)), FREE_700, coming, [])
    assert choice == WaitForStarts(
        "needs 500 MB on cpu and 0 MB must stay free; 700 MB are free, of which starts under way will take "
        "300 MB; it may be enough when those have settled"
    )
    assert isinstance(decide_start(start(cpu=Need(400, 0)), FREE_700, coming, []), Admit)


def test_a_start_under_way_that_makes_no_difference_is_not_waited_for() -> None:
    assert isinstance(decide_start(NINE_HUNDRED, FREE_700, [InFlight(("cpu",), {"cpu": 100})], []), Refuse)


def test_it_waits_when_starts_and_idle_models_together_may_make_room() -> None:
    coming = [InFlight(("cpu",), {"cpu": 400})]
    choice = decide_start(start(cpu=Need(800, 0)), FREE_700, coming, [model("a", cpu=200)])
    assert isinstance(choice, WaitForStarts)


def test_a_model_that_leaves_is_waited_for_and_nothing_else_unloaded() -> None:
    loaded = [leaving("gone", cpu=700), model("a", cpu=700)]
    assert decide_start(NINE_HUNDRED, FREE_700, [], loaded) == WaitForStarts(f"{WHY}; being unloaded: gone")


def test_a_model_that_leaves_too_little_is_waited_for_once_no_other_can_go() -> None:
    loaded = [leaving("gone", cpu=100), model("a", leases=1, cpu=700)]
    assert isinstance(decide_start(NINE_HUNDRED, FREE_700, [], loaded), WaitForStarts)


# --- unloading ----------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first_and_only_as_many_as_needed() -> None:
    loaded = [model("c", 3.0, cpu=400), model("a", 1.0, cpu=400), model("b", 2.0, cpu=400)]
    assert decide_start(NINE_HUNDRED, FREE_700, [], loaded) == Unload(("a", "b"), WHY)


def test_a_large_one_spares_the_small_ones_before_it() -> None:
    loaded = [model("small", 1.0, cpu=100), model("large", 2.0, cpu=900)]
    assert decide_start(NINE_HUNDRED, FREE_700, [], loaded) == Unload(("large",), WHY)


@pytest.mark.parametrize(
    "kept",
    [
        model("a", leases=1, cpu=900),
        model("a", may_unload=False, cpu=900),
        model("a", gpu0=900),
        model("a"),
        model("m", cpu=900),
        model("a", cpu=699),
    ],
)
def test_what_is_in_use_or_no_help_stays(kept: Loaded) -> None:
    assert isinstance(decide_start(NINE_HUNDRED, FREE_700, [], [kept]), Refuse)


def test_a_refusal_says_that_others_are_in_use() -> None:
    assert decide_start(NINE_HUNDRED, FREE_700, [], [model("a", leases=2, cpu=900)]) == Refuse(
        f"{WHY}; models in use that could be unloaded otherwise: 1"
    )


def test_room_is_made_on_every_place_that_is_short() -> None:
    pair = start("gpu0", "gpu1", gpu=Need(100, 0))
    memory = {"gpu0": Memory(50), "gpu1": Memory(0), "cpu": Memory(0)}
    loaded = [model("a", 1.0, gpu1=100), model("b", 2.0, gpu0=50), model("c", 0.5, gpu2=900, cpu=900)]
    choice = decide_start(pair, memory, [], loaded)
    assert isinstance(choice, Unload)
    assert choice.keys == ("a", "b")


# --- threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "budget", "workers", "expected"),
    [(4, 16, 2, 4), (4, 16, 8, 2), (4, 16, 5, 3), (4, 2, 8, 1), (4, 16, 0, 4), (1, 16, 2, 1), (4, 0, 1, 1)],
)
def test_threads_are_shared_within_the_budget(wanted: int, budget: int, workers: int, expected: int) -> None:
    assert share_threads(wanted, budget, workers) == expected

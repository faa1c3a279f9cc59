"""How many groups of several ranks a machine's devices make, on which of them, and what is refused."""

from __future__ import annotations

import sys

import pytest
from frame.api import EngineSpec
from frame.cli.simulate import settings_of
from frame.contract.engines import RanksRequest
from frame.errors import ConfigError
from frame.pool.plan import ModelPlan, make_plan
from frame.pool.rank_places import device_sets
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_plans import model_config

CPU = (("cpu",),)


def gpus(count: int) -> tuple[tuple[str, ...], ...]:
    return tuple((f"gpu{index}",) for index in range(count))


def wide(ranks: int) -> EngineSpec:
    return EngineSpec(name="wide", api=(1, 1), target="wide:Wide", ranks=lambda _: ranks, fills_devices=True)


def plan(text: str = "", *, ranks: int = 2, devices=CPU, cores: int = 8, environ=None) -> ModelPlan:
    spec = wide(ranks)
    return make_plan(
        model_config(text, spec=spec),
        spec,
        url="file:///store/m/",
        interpreter=sys.executable,
        devices=devices,
        cores=cores,
        environ=environ or {},
    )


def places(made: ModelPlan) -> list[tuple[str, int, int]]:
    return [("+".join(place.devices), place.minimum, place.maximum) for place in made.places]


# --- how many ----------------------------------------------------------------------------------------


@given(ranks=st.integers(1, 8), groups=st.integers(1, 8))
def test_groups_fill_the_devices_each_on_its_own_neighbours(ranks, groups):
    made = plan(ranks=ranks, devices=gpus(ranks * groups))
    assert made.min_workers == made.max_workers == groups
    taken = [name for place in made.places for name in place.devices]
    assert taken == [f"gpu{index}" for index in range(ranks * groups)]
    assert all(len(place.devices) == ranks and place.slots_per_group == 1 for place in made.places)


def test_the_number_of_devices_and_the_environment_reach_the_engine():
    asked: list[RanksRequest] = []
    spec = EngineSpec(
        name="wide", api=(1, 1), target="w:W", fills_devices=True, ranks=lambda r: asked.append(r) or 2
    )
    environ = {"A": "b"}
    config = model_config(spec=spec)
    make_plan(config, spec, url="", interpreter="python", devices=gpus(4), cores=1, environ=environ)
    assert [(request.accelerators, dict(request.environ)) for request in asked] == [(4, {"A": "b"})]


def test_what_an_engine_cannot_have_is_an_error_of_the_configuration():
    def none(request: RanksRequest) -> int:
        raise ValueError("option.tensor_parallel_degree=3: too many")

    spec = EngineSpec(name="wide", api=(1, 1), target="w:W", ranks=none)
    with pytest.raises(ConfigError, match=r"option\.tensor_parallel_degree=3: too many"):
        make_plan(
            model_config(spec=spec), spec, url="", interpreter="python", devices=gpus(2), cores=1, environ={}
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("maxWorkers=1", [("gpu0+gpu1", 1, 1)]),
        ("minWorkers=1", [("gpu0+gpu1", 1, 1), ("gpu2+gpu3", 0, 1)]),
        ("minWorkers=1\nmaxWorkers=2", [("gpu0+gpu1", 1, 1), ("gpu2+gpu3", 0, 1)]),
        ("gpu.maxWorkers=1", [("gpu0+gpu1", 1, 1)]),
        ("gpu.minWorkers=2", [("gpu0+gpu1", 1, 1), ("gpu2+gpu3", 1, 1)]),
        ("cpu.maxWorkers=9", [("gpu0+gpu1", 1, 1), ("gpu2+gpu3", 1, 1)]),
    ],
)
def test_fewer_groups_may_be_asked_for(text, expected):
    assert places(plan(text, devices=gpus(4))) == expected


@pytest.mark.parametrize("key", ["minWorkers", "maxWorkers", "gpu.minWorkers", "gpu.maxWorkers"])
def test_more_groups_than_the_devices_make_are_an_error_that_says_so(key):
    with pytest.raises(ConfigError) as caught:
        plan(f"\n{key}=3", devices=gpus(4))
    for part in (f"{key} (f:2)", "3 groups", "make 2", "at most 2", "option.tensor_parallel_degree"):
        assert part in str(caught.value)


# --- on which devices --------------------------------------------------------------------------------


def test_sets_that_were_named_are_kept():
    assert places(plan(devices=(("gpu1", "gpu0"), ("gpu3", "gpu2")))) == [
        ("gpu1+gpu0", 1, 1),
        ("gpu3+gpu2", 1, 1),
    ]


@pytest.mark.parametrize(
    ("devices", "ranks", "said"),
    [
        ((("gpu0", "gpu1", "gpu2"),), 2, "needs 2 devices in each set"),
        ((("gpu0", "gpu1"), ("gpu2",)), 2, "needs 2 devices in each set"),
        (gpus(3), 2, "cannot be divided"),
        (gpus(1), 2, "cannot be divided"),
        ((("cpu",), *gpus(2)), 2, "on the CPU or on accelerators"),
    ],
)
def test_devices_that_do_not_make_whole_groups_are_an_error_of_load_on_devices(devices, ranks, said):
    with pytest.raises(ConfigError, match="load_on_devices") as caught:
        plan(ranks=ranks, devices=devices)
    assert said in str(caught.value)


@given(ranks=st.integers(1, 6), count=st.integers(1, 24))
def test_no_device_is_in_two_groups_and_none_is_left_over(ranks, count):
    if count % ranks:
        with pytest.raises(ConfigError):
            device_sets(gpus(count), ranks)
        return
    taken = [name for names in device_sets(gpus(count), ranks) for name in names]
    assert len(set(taken)) == len(taken) == count


# --- on the CPU --------------------------------------------------------------------------------------


def test_without_accelerators_there_is_one_group_on_the_cpu():
    assert places(plan()) == [("cpu", 1, 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("minWorkers=2", [("cpu", 2, 2)]),
        ("maxWorkers=3", [("cpu", 3, 3)]),
        ("minWorkers=1\nmaxWorkers=3", [("cpu", 1, 3)]),
        ("minWorkers=0\nmaxWorkers=2", [("cpu", 0, 2)]),
        ("cpu.minWorkers=2\ncpu.maxWorkers=2", [("cpu", 2, 2)]),
    ],
)
def test_more_groups_on_the_cpu_are_there_when_they_are_asked_for(text, expected):
    assert places(plan(text)) == expected


@pytest.mark.parametrize(
    ("cores", "ranks", "text", "threads"),
    [(8, 2, "", 4), (8, 4, "", 2), (2, 4, "", 1), (8, 2, "minWorkers=2", 2), (8, 1, "", 8)],
)
def test_ranks_share_the_threads_of_their_group(cores, ranks, text, threads):
    made = plan(text, ranks=ranks, cores=cores, environ={"OMP_NUM_THREADS": "8"})
    assert made.group.threads == threads
    assert made.group.all_threads == threads * ranks


def test_a_rank_computes_with_one_thread_unless_the_operator_says_more():
    assert plan().group.threads == 1


def test_the_simulator_knows_the_groups_of_several_ranks():
    simulated = settings_of(plan("minWorkers=1", devices=gpus(4)))
    assert [(place.minimum, place.maximum, place.slots_per_group) for place in simulated.places] == [
        (1, 1, 1),
        (0, 1, 1),
    ]


# --- other engines -----------------------------------------------------------------------------------


def test_an_engine_that_does_not_fill_its_devices_keeps_its_workers():
    spec = EngineSpec(name="wide", api=(1, 1), target="wide:Wide")
    made = make_plan(
        model_config("minWorkers=3\nmaxWorkers=5", spec=spec),
        spec,
        url="",
        interpreter="python",
        devices=gpus(2),
        cores=4,
        environ={},
    )
    assert places(made) == [("gpu0", 3, 5), ("gpu1", 3, 5)]


def test_the_time_until_a_rank_counts_as_stalled_can_be_set():
    assert plan().group.stall_timeout == 10.0
    assert plan("option.group_stall_timeout=2.5").group.stall_timeout == 2.5

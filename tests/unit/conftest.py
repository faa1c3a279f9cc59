"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import PoolRig


@pytest.fixture
def start_pool() -> Iterator[Callable[..., PoolRig]]:
    """Make a pool with these lines of serving.properties; its groups are loaded unless told otherwise."""
    rigs: list[PoolRig] = []

    def make(
        *lines: str, is_loaded: bool = True, prepare=None, devices=(("cpu",),), **loaded: int
    ) -> PoolRig:
        text = "\n".join(("option.slots_per_group=1", "option.predict_timeout=30", *lines))
        if "maxWorkers" not in text:  # tests of anything but scaling want a number of workers that stays
            text += "\nmaxWorkers=" + (text.partition("minWorkers=")[2].partition("\n")[0] or "1")
        rigs.append(PoolRig(plan(text, devices=devices), prepare=prepare))
        if is_loaded:
            rigs[-1].load_all(**loaded)
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.dispose()

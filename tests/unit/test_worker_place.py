"""A process's place in its group, from what its launcher says."""

from __future__ import annotations

import os

import pytest
from frame.wire.messages import LoadHead
from frame.worker.link import LinkError
from frame.worker.ranks import Place, Ranks, find_place, set_master


def load(**facts) -> LoadHead:
    return LoadHead(
        engine_target="", options_target="", name="m", version=None, path="/", model_file=None, properties={},
        batch_size=1, devices=["cpu"], threads=1, slots=1, max_slots=1, **facts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place(0, 1)),
        ({"RANK": "3"}, Place(0, 1)),  # left over from whoever started the server
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Place(3, 4)),
    ],
)
def test_a_place_is_what_the_launcher_says(environ, place):
    assert find_place(environ) == place


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
    ],
)
def test_a_place_that_does_not_exist_is_refused(environ):
    with pytest.raises(ValueError, match=r"WORLD_SIZE=|invalid literal"):
        find_place(environ)


def test_a_place_other_than_the_routers_is_refused():
    with pytest.raises(LinkError, match="asked to be rank 1 of 2, am rank 0 of 1"):
        Ranks().join(load(rank=1, world_size=2), lambda rank: None)


def test_a_rank_alone_joins_nobody_and_ends_at_once():
    ranks = Ranks()
    ranks.join(load(rank=0, world_size=1), lambda rank: None)
    ranks.stop()
    ranks.close()
    assert not ranks.lockstep.spans_ranks


def test_several_ranks_are_told_where_their_collectives_meet(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    set_master(load(rank=0, world_size=1, master_port=0))
    assert [name in os.environ for name in ("MASTER_ADDR", "MASTER_PORT")] == [False, True]
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    set_master(load(rank=0, world_size=2, master_port=4000))
    assert [os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")] == ["node-1", "4000"]
    monkeypatch.delenv("MASTER_ADDR")
    set_master(load(rank=1, world_size=2, master_port=4000))
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"

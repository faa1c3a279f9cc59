"""Heads survive the wire: written by one half with its encoder, read by the other with its own."""

from __future__ import annotations

import json

import msgspec
import pytest
from frame.wire.messages import (
    AnswerHead,
    AnswersHead,
    BatchEnd,
    ChunkHead,
    EndHead,
    HelloHead,
    JobHead,
    Kind,
    LoadedHead,
    LoadFailedHead,
    LoadHead,
    RunHead,
    SlotsReadyHead,
    SpecHead,
    StageHead,
    run_from_json,
    to_json,
)
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNT = st.integers(0, 2**53)
PROPERTIES = st.dictionaries(TEXT, TEXT, max_size=3)
PARTS = st.lists(st.tuples(TEXT, COUNT, st.integers(-1, 250)), max_size=3)
SECONDS = st.floats(0, 1e6)
JOBS = st.builds(JobHead, COUNT, TEXT, PROPERTIES, PARTS, TEXT)
SPECS = st.none() | st.lists(
    st.builds(SpecHead, TEXT, TEXT, st.none() | st.lists(st.integers(-1, 99), max_size=3)), max_size=2
)
ANSWERS = st.builds(
    AnswerHead, id=COUNT, status=COUNT, message=TEXT, properties=PROPERTIES, parts=PARTS, type_name=TEXT
)
FROM_WORKER = st.one_of(
    st.builds(HelloHead, token=TEXT, pid=COUNT, rank=COUNT, python=TEXT),
    st.builds(StageHead, TEXT),
    st.builds(
        LoadedHead,
        slots=COUNT,
        concurrency=COUNT,
        capacity=COUNT,
        rss_bytes=COUNT,
        inputs=SPECS,
        outputs=SPECS,
        seconds=st.dictionaries(TEXT, SECONDS, max_size=2),
    ),
    st.builds(SlotsReadyHead, change=COUNT, slots=COUNT, wanted=COUNT, error=TEXT),
    st.builds(LoadFailedHead, stage=TEXT, status=COUNT, message=TEXT),
    ANSWERS,
    st.builds(
        AnswersHead,
        batch=COUNT,
        jobs=st.lists(ANSWERS, max_size=2),
        end=st.none() | st.builds(BatchEnd, decode=SECONDS, compute=SECONDS, encode=SECONDS, calls=COUNT),
    ),
    st.builds(ChunkHead, COUNT),
    st.builds(EndHead, COUNT, TEXT),
)


@given(FROM_WORKER)
def test_what_a_worker_writes_with_json_the_router_reads_with_msgspec(head):
    assert msgspec.json.decode(json.dumps(head, default=to_json), type=type(head)) == head


@given(COUNT, st.lists(JOBS, max_size=3))
def test_jobs_that_the_router_writes_the_worker_reads(batch, jobs):
    found = run_from_json(json.loads(msgspec.json.encode(RunHead(batch, jobs))))
    assert found.batch == batch
    for job in found.jobs:
        job.parts = [tuple(part) for part in job.parts]
    assert found.jobs == jobs


@given(PROPERTIES, st.lists(TEXT, max_size=2), st.sampled_from([None, True, False]))
def test_what_a_worker_shall_load_is_read_as_written(properties, devices, shares_model):
    head = LoadHead(
        engine_target="a:B", options_target="c:D", name="m", version=None, path="/m", model_file=None,
        properties=properties, batch_size=1, devices=devices, rank=0, world_size=1, threads=1, slots=1,
        max_slots=4, shares_model=shares_model,
    )  # fmt: skip
    assert LoadHead(**json.loads(msgspec.json.encode(head))) == head


def test_only_messages_become_json():
    with pytest.raises(TypeError, match="object is no message"):
        json.dumps(object(), default=to_json)


def test_kinds_say_which_way_they_go():
    to_worker = {Kind.LOAD, Kind.RUN, Kind.CREDIT, Kind.CANCEL, Kind.DRAIN, Kind.SLOTS, Kind.PING}
    assert {kind for kind in Kind if kind < 16} == to_worker

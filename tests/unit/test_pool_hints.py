"""Which requests a model's batcher is told about by their body, and which by their content type alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from frame.api import Signature, TensorSpec
from frame.pool.hints import HintMaker
from frame.pool.jobs import Job
from frame.pool.payload import Payload
from frame.wire.hints import BatchHint
from frame.wire.padding import Padding
from frame.wire.peek import MAX_BYTES
from frame.worker.codecs import ndlist

from tests.unit.pool_plans import plan

CLOSED = Signature((TensorSpec("x", "int64", (-1, 3)),), ())
OPEN = Signature((TensorSpec("x", "int64", (-1, -1)),), ())
UNKNOWN = Signature((TensorSpec("x", "int64", None),), ())
ROWS = json.dumps([[1, 2, 3], [4, 5, 6]]).encode()
BY_TYPE, BY_SHAPE = BatchHint(b"application/json", len(ROWS)), BatchHint(b"[3]", 6)


def payload(*chunks):
    made = Payload()
    for chunk in chunks:
        made.add(chunk)
    made.finish()
    return made


def job(*parts, content_type="application/json"):
    loop = asyncio.new_event_loop()
    try:
        return Job(
            id=1, request_id="r", properties={"content-type": content_type}, parts=list(parts), codec="",
            priority=3, arrived=0.0, deadline=1.0, answer=loop.create_future(),
        )  # fmt: skip
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("signature", "padding", "has_budget", "expected"),
    [
        (None, Padding(), True, BY_TYPE),
        (CLOSED, None, False, BY_TYPE),
        (CLOSED, None, True, BY_SHAPE),
        (OPEN, None, False, BY_SHAPE),
        (UNKNOWN, None, False, BY_SHAPE),
        (OPEN, Padding(multiple=4), False, BatchHint(b"[4]", 8)),
    ],
)
def test_a_body_is_looked_at_only_where_it_can_make_a_difference(signature, padding, has_budget, expected):
    maker = HintMaker(padding, has_budget=has_budget)
    assert maker.hint(job(("data", payload(ROWS)))) == BY_TYPE  # nothing is known before the model has loaded
    maker.learn(signature)
    assert maker.hint(job(("data", payload(ROWS)))) == expected


def test_the_body_is_the_last_part_in_whatever_pieces_it_came():
    maker = HintMaker(None, has_budget=False)
    maker.learn(OPEN)
    body = payload(ROWS[:4], ROWS[4:9], ROWS[9:])
    assert maker.hint(job(("query", payload(b"[]")), ("data", body))) == BY_SHAPE
    assert maker.hint(job()) == BatchHint(b"application/json", 1)


@pytest.mark.parametrize("pieces", [1, 3, 40])
@pytest.mark.parametrize("length", [20_000, 200_000])  # in the router's memory, and in a memfd
def test_of_a_large_body_the_beginning_is_looked_at(pieces, length):
    import numpy as np

    body = ndlist.dumps([("x", np.ones((1, length), np.int64))])
    assert len(body) > MAX_BYTES
    step = len(body) // pieces + 1
    whole = payload(*(body[at : at + step] for at in range(0, len(body), step)))
    maker = HintMaker(None, has_budget=False)
    maker.learn(OPEN)
    found = maker.hint(job(("data", whole), content_type="tensor/ndlist"))
    assert found == BatchHint(f"[{length}]".encode(), length)
    whole.close()


def test_what_is_configured_reaches_the_batcher_and_the_workers():
    padded = plan("pad_to=batch\npad_values=ids=1\npad_mask=mask\nmax_batch_elements=4096")
    assert padded.group.padding == Padding(values={"ids": 1.0}, mask="mask")
    assert (padded.batching.max_cost, padded.batching.is_padded) == (4096, True)
    fixed = plan("pad_to=8,16")
    assert fixed.group.padding == Padding(lengths=(8, 16))
    assert (fixed.batching.max_cost, fixed.batching.is_padded) == (None, False)  # one line has one length
    multiple = plan("pad_to=multiple:8")
    assert (multiple.group.padding, multiple.batching.is_padded) == (Padding(multiple=8), False)
    assert plan().group.padding is None

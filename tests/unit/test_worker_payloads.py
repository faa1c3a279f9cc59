"""Payloads of a rank that follows: each is here until it is taken, and no longer."""

from __future__ import annotations

import threading

import pytest
from frame.api import Part
from frame.wire.messages import JobHead, RunHead
from frame.worker.payloads import Payloads


def add(payloads, batch, **jobs):
    """Add a batch of jobs, `j7=b"x"`."""
    heads = [JobHead(int(name[1:]), f"r{name}", {}, [("data", len(body), -1)]) for name, body in jobs.items()]
    payloads.add(RunHead(batch, heads), [memoryview(b"".join(jobs.values()))])


def bodies(taken):
    return [(item.head.id, item.position, bytes(item.parts[0].data)) for item in taken]


def test_a_batch_is_taken_whole_in_its_order():
    payloads = Payloads()
    add(payloads, 1, j7=b"seven", j3=b"three")
    assert len(payloads) == 2
    assert bodies(payloads.take_batch(1, 0)) == [(7, 0, b"seven"), (3, 1, b"three")]
    assert len(payloads) == 0


def test_jobs_taken_alone_are_not_in_their_batch_any_more_and_the_others_keep_their_place():
    payloads = Payloads()
    add(payloads, 1, j1=b"a", j2=b"b", j3=b"c")
    assert payloads.take_job(2, 0).parts == (Part("data", b"b"),)
    assert bodies(payloads.take_batch(1, 0)) == [(1, 0, b"a"), (3, 2, b"c")]


def test_a_batch_whose_jobs_were_all_taken_is_gone():
    payloads = Payloads()
    add(payloads, 1, j1=b"a")
    payloads.take_job(1, 0)
    with pytest.raises(TimeoutError, match="the payload of batch 1 did not come within 0 s"):
        payloads.take_batch(1, 0)


def test_an_empty_batch_leaves_nothing():
    payloads = Payloads()
    add(payloads, 1)
    with pytest.raises(TimeoutError):
        payloads.take_batch(1, 0)


def test_a_job_that_does_not_come_is_named():
    with pytest.raises(TimeoutError, match=r"the payload of job 9 did not come within 0\.01 s"):
        Payloads().take_job(9, 0.01)


def test_what_is_awaited_may_come_later():
    payloads = Payloads()
    later = threading.Thread(target=add, args=(payloads, 4), kwargs={"j1": b"a"})
    later.start()
    assert bodies(payloads.take_batch(4, 10)) == [(1, 0, b"a")]
    later.join()

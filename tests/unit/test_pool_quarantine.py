"""What a request is known by, and the way of a poisonous one into quarantine and against its wall."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import closing

import pytest
from frame.errors import QuarantinedError
from frame.policy.quarantine import Quarantine
from frame.pool.jobs import Job
from frame.pool.payload import Payload
from frame.pool.quarantine import check_quarantine, digest_of, hold, size_of
from frame.wire.parts import MEMFD_BYTES
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_rig import PoolRig


def job_of(loop, *pieces: bytes, content_type: str = "application/json", **query: bytes) -> Job:
    """Return a request whose body came in these pieces."""
    body = Payload()
    for piece in pieces:
        body.add(piece)
    body.finish()
    return Job(
        id=1,
        request_id="r1",
        properties={"content-type": content_type, "x-request-id": "any"},
        parts=[*((key, Payload(value)) for key, value in query.items()), ("data", body)],
        codec="",
        priority=3,
        arrived=0.0,
        deadline=30.0,
        answer=loop.create_future(),
    )


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


@given(st.lists(st.binary(max_size=8), max_size=6), st.data())
def test_the_same_bytes_have_the_same_digest_however_they_came_in_pieces(pieces, data):
    whole = b"".join(pieces)
    cut = data.draw(st.integers(0, len(whole)))
    with closing(asyncio.new_event_loop()) as loop:
        one, other = job_of(loop, *pieces), job_of(loop, whole[:cut], whole[cut:])
        assert (digest_of(one), size_of(one)) == (digest_of(other), size_of(other))


def test_a_large_body_has_the_digest_of_its_bytes_too(loop):
    bodies = [b"x" * MEMFD_BYTES + tail for tail in (b"a", b"a", b"b")]
    jobs = [job_of(loop, bodies[0][:10], bodies[0][10:]), *(job_of(loop, body) for body in bodies[1:])]
    first, same, other = [digest_of(job) for job in jobs]
    assert first == same != other
    for job in jobs:
        job.close()


def test_content_type_and_query_are_part_of_the_content_and_ids_are_not(loop):
    digests = {
        digest_of(job)
        for job in (
            job_of(loop, b"ab"),
            job_of(loop, b"ab", content_type="text/plain"),
            job_of(loop, b"ab", a=b"1"),
            job_of(loop, b"b", a=b"1a"),
            job_of(loop, b"b", a1=b"a"),
            job_of(loop, b"y", data=b"x"),
            job_of(loop, b"x" + (4).to_bytes(8, "big") + b"data" + b"y"),
        )
    }
    assert len(digests) == 7
    other = job_of(loop, b"ab")
    other.properties["x-request-id"], other.request_id = "another", "r2"
    assert digest_of(other) in digests


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is needed


@pytest.mark.parametrize("size", [5, MEMFD_BYTES + 5])
def test_what_is_held_is_refused_with_the_time_that_is_left_and_its_like_is_not(loop, size, caplog):
    async def scenario():
        caplog.set_level(logging.WARNING)
        quarantine = Quarantine(300.0)
        before = descriptors()
        poison = job_of(loop, b"p" * size)
        hold(quarantine, poison, "m", lambda: 100.0)
        poison.close()
        while not quarantine:  # noqa: ASYNC110  # a digest is made in a thread; nothing tells of its end
            await asyncio.sleep(0)
        assert "request_quarantined model=m request=r1 seconds=300" in caplog.text
        for body, is_refused in ((b"p" * size, True), (b"q" * size, False), (b"p" * size + b"p", False)):
            job = job_of(loop, body)
            if is_refused:
                with pytest.raises(QuarantinedError) as caught:
                    await check_quarantine(quarantine, job, lambda: 113.0)
                text = "this request ended two workers of its model; it is refused for another 287 s"
                assert str(caught.value) == f"{text} (quarantine_time)"
                assert (caught.value.status, caught.value.retry_after) == (503, 287.0)
            else:
                await check_quarantine(quarantine, job, lambda: 113.0)
            job.close()
        assert descriptors() == before

    loop.run_until_complete(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize(("seconds", "body"), [(0.0, b"x"), (300.0, b"")])
def test_nothing_is_digested_where_nothing_can_be_held(loop, seconds, body, caplog):
    quarantine = Quarantine(seconds)
    hold(quarantine, job_of(loop, body), "m", lambda: 0.0)
    assert (len(quarantine), caplog.text) == (0, "")


def end_worker(rig: PoolRig) -> None:
    """Let the worker that runs something die."""
    next(group for group in rig.groups if group.runs).reap()
    rig.loop.advance(5.0)
    rig.load_all()


def test_a_request_that_ended_two_workers_is_held_and_one_that_ended_one_is_not(start_pool):
    rig = start_pool("quarantine_time=60")
    once = rig.submit(b"once")
    end_worker(rig)
    rig.answer_all()
    assert once.answer.result().status == 200
    assert len(rig.pool.quarantine) == 0
    twice = rig.submit(b"twice")
    digest = digest_of(twice)
    end_worker(rig)
    end_worker(rig)
    assert rig.answer_of(twice).type_name == "WorkerDiedError"
    left = rig.pool.quarantine.seconds_left(digest, rig.clock.now)
    assert left == pytest.approx(55.0, abs=5.0)


@pytest.mark.parametrize("line", ["quarantine_time=0", "option.retry_on_crash=false"])
def test_a_model_may_forbid_quarantine_and_one_death_is_not_enough(start_pool, line):
    rig = start_pool(line)
    job = rig.submit(b"x")
    end_worker(rig)
    if not job.answer.done():
        end_worker(rig)
    assert rig.answer_of(job).status == 503
    assert len(rig.pool.quarantine) == 0

"""Messages of a worker that are large, late, or lies."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest
from frame.pool.channel import Channel
from frame.pool.heads import decode_head
from frame.wire.frames import Frame, WireError
from frame.wire.messages import AnswerHead, AnswersHead, BatchEnd, ChunkHead, Kind, to_json
from frame.wire.parts import MEMFD_BYTES, map_memfd, memfd_of

from tests.unit.pool_rig import FakeGroup


def frame(kind: Kind, head: object, body: bytes = b"", fd_count: int = 0) -> Frame:
    return Frame(kind, json.dumps(head, default=to_json).encode(), memoryview(body), fd_count)


def mapped(data: bytes) -> memoryview:
    return map_memfd(memfd_of([data]), len(data))


def answers(group: FakeGroup, *heads: AnswerHead) -> AnswersHead:
    return AnswersHead(batch=next(iter(group.runs)), jobs=list(heads), end=BatchEnd())


def test_a_large_answer_is_a_view_of_what_its_worker_wrote(start_pool):
    rig = start_pool()
    job, group = rig.submit(), rig.groups[0]
    large = os.urandom(MEMFD_BYTES)
    head = AnswerHead(id=job.id, status=200, message="", parts=[("data", len(large), 0)])
    group._take_frame(frame(Kind.ANSWERS, answers(group, head), fd_count=1), [mapped(large)])
    body = rig.answer_of(job).body
    assert isinstance(body, memoryview)
    assert bytes(body) == large


def test_a_large_chunk_of_a_stream_is_passed_on(start_pool):
    rig = start_pool()
    job, group = rig.submit(), rig.groups[0]
    group.begin_stream(job.id, b"")
    large = os.urandom(MEMFD_BYTES)
    group._take_frame(frame(Kind.CHUNK, ChunkHead(job.id), fd_count=1), [mapped(large)])
    stream = rig.answer_of(job).stream
    assert stream is not None
    assert bytes(rig.loop.run_until_complete(stream.next(1.0)) or b"") == large


@pytest.mark.parametrize("part", [("data", 5, -1), ("data", -1, -1), ("data", 4, 0), ("data", 4, 7)])
def test_a_part_that_is_not_in_its_message_is_refused(start_pool, part):
    rig = start_pool()
    job, group = rig.submit(), rig.groups[0]
    head = AnswerHead(id=job.id, status=200, message="", parts=[part])
    with pytest.raises(WireError, match="part"):
        group._take_frame(frame(Kind.ANSWERS, answers(group, head), b"four"), [])
    assert job in rig.pool.open_jobs


@pytest.mark.parametrize(
    ("kind", "head"),
    [(Kind.ANSWERS, b"{}"), (Kind.ANSWERS, b"no json"), (Kind.CHUNK, b'{"job": "one"}'), (Kind.RUN, b"{}")],
)
def test_a_head_that_is_not_as_its_kind_demands_is_refused(kind, head):
    with pytest.raises(WireError):
        decode_head(Frame(kind, head, memoryview(b""), 0))


def test_messages_about_jobs_that_are_gone_change_nothing(start_pool):
    rig = start_pool()
    job, group = rig.submit(), rig.groups[0]
    nobody = AnswerHead(id=99, status=200, message="", parts=[("data", 1, -1)])
    mine = AnswerHead(id=job.id, status=200, message="", parts=[("data", 2, -1)])
    group._take_frame(frame(Kind.CHUNK, ChunkHead(99), b"x"), [])
    group._take_frame(frame(Kind.STREAM, nobody, b"x"), [])
    group._take_frame(frame(Kind.ANSWERS, answers(group, nobody, mine), b"xme"), [])
    assert rig.answer_of(job).body == b"me"
    group._take_frame(frame(Kind.ANSWERS, AnswersHead(batch=77, jobs=[mine], end=BatchEnd()), b"xy"), [])
    assert rig.pool.metrics.requests == {"ok": 1}


def test_a_stream_that_began_for_a_client_that_left_is_dropped(start_pool):
    rig = start_pool()
    job, group = rig.submit(), rig.groups[0]
    rig.pool.cancel(job)
    group.begin_stream(job.id, b"too late")
    assert job.stream is None
    assert not job.answer.done()


def test_a_stream_that_stalls_costs_its_worker(start_pool):
    rig = start_pool()
    job = rig.submit()
    rig.groups[0].begin_stream(job.id, b"first")
    rig.pool.give_up(job)
    rig.loop.settle()
    assert rig.groups[0].was_killed
    assert rig.groups[0].reap().kind == "overdue"


def test_the_channel_of_the_router_reports_its_end_once():
    """The two ends of one socket: the router's asyncio end, and a worker that lies and leaves."""

    async def scenario() -> list[str]:
        near, far = socket.socketpair()
        ended: list[str] = []
        is_over = asyncio.Event()

        def take_end(reason: str) -> None:
            ended.append(reason)
            is_over.set()

        channel = Channel(near, lambda frame, parts: None, take_end)
        far.send(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(is_over.wait(), 5)
        far.close()
        channel.close()
        return ended

    assert len(asyncio.run(scenario())) == 1

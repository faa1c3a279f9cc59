"""A worker group of several ranks, all played by the test; the launcher is a process that does nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from frame.api import EngineSpec, LaunchCommand, LaunchRequest
from frame.policy.lifecycle import GroupState
from frame.pool.deaths import GroupEnd
from frame.pool.group import WorkerGroup
from frame.pool.jobs import Job
from frame.pool.payload import Payload
from frame.pool.settings import GroupSettings, Placement
from frame.wire.frames import Frame
from frame.wire.messages import AnswerHead, AnswersHead, BatchEnd, ChunkHead, Kind, StageHead
from frame.worker.__main__ import TOKEN_VARIABLE
from frame.worker.echo import EchoOptions

from tests.fake_ranks import FakeRank
from tests.process.in_process import eventually

pytestmark = pytest.mark.slow(120)

LARGE = 3 << 20  # bytes; over a Unix socket it would travel as a descriptor


class Played:
    """A group whose launcher waits at a gate, and whose ranks the test plays; it is its own listener."""

    def __init__(self, folder: Path, ranks: int, settings: Mapping[str, Any], at_start: str) -> None:
        self.at_start = at_start
        self.gate = folder / "gate"
        os.mkfifo(self.gate)
        self.launched: LaunchRequest | None = None
        spec = EngineSpec(
            name="played",
            api=(1, 1),
            target="frame.worker.echo:EchoEngine",
            options=EchoOptions,
            launch=self._launch,
        )
        facts: dict[str, Any] = {
            "name": "m", "version": None, "path": str(folder), "model_file": None, "engine": spec,
            "options": EchoOptions(), "properties": {}, "interpreter": "python", "environment": {},
            "listen_address": "127.0.0.1",
        }  # fmt: skip
        self.group = WorkerGroup(
            GroupSettings(**facts, ranks=ranks, **settings),
            Placement(key=1, slots=1, max_slots=1, log_prefix="m"),
            self,
        )
        self.answered: list[Kind] = []
        self.ranks: list[FakeRank] = []
        self.task: asyncio.Task[GroupEnd]

    def _launch(self, request: LaunchRequest) -> LaunchCommand:
        self.launched = request
        script = f"{self.at_start}; exec 3<>{self.gate}; read line <&3; exit 1"
        return LaunchCommand(("/bin/sh", "-c", script), request.environment)

    async def let_launcher_end(self) -> None:
        """Let the launcher exit with 1."""
        await eventually(self._open_gate)

    def _open_gate(self) -> bool:
        try:
            gate = os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # the launcher is not there yet
            return False
        os.write(gate, b"\n")
        os.close(gate)
        return True

    def group_loaded(self, group: WorkerGroup) -> None:
        pass

    def group_resized(self, group: WorkerGroup) -> None:
        pass

    def group_frame(self, group: WorkerGroup, frame: Frame, mapped: list[memoryview]) -> None:
        self.answered.append(Kind(frame.kind))

    async def join(self, rank: int) -> FakeRank:
        """Let a rank say hello."""
        await eventually(lambda: self.launched)
        assert self.launched is not None
        arguments = self.launched.arguments
        address = arguments[arguments.index("--connect") + 1]
        token = self.launched.environment[TOKEN_VARIABLE]
        self.ranks.append(await FakeRank.join(address, token, rank, self.group.settings.ranks))
        return self.ranks[-1]

    async def load(self) -> None:
        """Let all ranks join and load, the last one first; from here on they are in their order."""
        for rank in reversed(range(self.group.settings.ranks)):
            await self.join(rank)
        for rank in self.ranks:
            await rank.wait_for(Kind.LOAD)
            rank.report_loaded(rss_bytes=100)
        self.ranks.reverse()
        await eventually(lambda: self.group.state is GroupState.READY)

    async def end(self) -> GroupEnd:
        async with asyncio.timeout(20):
            return await self.task


@asynccontextmanager
async def played(
    folder: Path, ranks: int = 2, *, at_start: str = ":", **settings: Any
) -> AsyncIterator[Played]:
    made = Played(folder, ranks, settings, at_start)
    made.task = asyncio.ensure_future(made.group.run())
    try:
        yield made
    finally:
        made.group.kill("died", "the test is over")
        await made.end()
        for rank in made.ranks:
            await rank.close()


def job_of(number: int, *bodies: bytes) -> Job:
    parts = [(f"p{index}", Payload(body)) for index, body in enumerate(bodies)]
    for _, payload in parts:
        payload.finish()
    return Job(
        id=number, request_id=f"r{number}", properties={}, parts=parts, codec="", priority=0, arrived=0.0,
        deadline=1e9, answer=asyncio.get_running_loop().create_future(),
    )  # fmt: skip


def kinds_of(rank: FakeRank) -> list[Kind]:
    return [kind for kind, _, _ in rank.got if kind is not Kind.PING]


def test_each_rank_is_told_its_number_and_where_the_ranks_meet(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3, stall_timeout=7.0) as made:
            await made.load()
            for number, rank in enumerate(made.ranks):
                (head,) = rank.of_kind(Kind.LOAD)
                assert (head["rank"], head["world_size"], head["stall_timeout"]) == (number, 3, 7.0)
                assert (head["link"], head["master_port"]) == ("tcp:10.0.0.1:1", 2)
            assert made.group.pid == 1000
            assert [hello.pid for hello in made.group.ranks] == [1000, 1001, 1002]
            assert made.group.slots == 1

    asyncio.run(scenario())


def test_all_ranks_get_a_batch_and_rank_0_alone_the_rest(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3) as made:
            await made.load()
            job = job_of(1, b"small", b"x" * LARGE)
            batch = made.group.send([job, job_of(2)])
            made.group.start(batch, 0.0)
            made.group.grant(job)
            made.group.cancel(job)
            job.close()
            await made.ranks[0].wait_for(Kind.CANCEL)
            for rank in made.ranks:
                await rank.wait_for(Kind.RUN)
            runs = [next(item for item in rank.got if item[0] is Kind.RUN) for rank in made.ranks]
            assert runs[0] == runs[1] == runs[2]
            assert runs[0][2] == b"small" + b"x" * LARGE
            assert [part[2] for part in runs[0][1]["jobs"][0]["parts"]] == [-1, -1]
            made.ranks[0].tell(Kind.CHUNK, ChunkHead(1), b"y")
            made.ranks[0].tell(Kind.ANSWERS, AnswersHead(batch=batch.id, jobs=[], end=BatchEnd()))
            await eventually(lambda: made.answered == [Kind.CHUNK, Kind.ANSWERS])
            made.group.batch_ended(batch)
            made.group.drain()
            await made.ranks[0].wait_for(Kind.DRAIN)
            for rank in made.ranks:
                await rank.close()
            await made.let_launcher_end()
            assert (await made.end()).kind == "drained"
            assert kinds_of(made.ranks[0]) == [Kind.LOAD, Kind.RUN, Kind.CREDIT, Kind.CANCEL, Kind.DRAIN]
            assert kinds_of(made.ranks[1]) == kinds_of(made.ranks[2]) == [Kind.LOAD, Kind.RUN]

    asyncio.run(scenario())


def test_the_first_rank_that_cannot_load_ends_the_group(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3) as made:
            ranks = [await made.join(number) for number in range(3)]
            for rank in ranks:
                await rank.wait_for(Kind.LOAD)
            ranks[0].report_loaded()
            ranks[2].tell(Kind.STAGE, StageHead("load model"))
            ranks[2].report_failure("ValueError: no weights")
            end = await made.end()
            assert (end.kind, end.cause) == ("load_failed", "rank 2: load model: ValueError: no weights")
            for rank in ranks:
                await rank.wait_closed()

    asyncio.run(scenario())


def test_a_rank_that_goes_away_ends_the_group_and_is_named(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path) as made:
            await made.load()
            await made.ranks[1].close()
            await eventually(lambda: not made.group.takes_work)
            await made.let_launcher_end()
            end = await made.end()
            assert (end.kind, end.cause) == ("died", "rank 1: the worker closed its socket (exit status 1)")
            await made.ranks[0].wait_closed()

    asyncio.run(scenario())


def test_a_rank_that_goes_away_before_all_are_there_ends_the_group(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3) as made:
            await (await made.join(2)).close()
            await eventually(lambda: made.group.state is GroupState.ENDED)
            await made.let_launcher_end()
            end = await made.end()
            assert end.kind == "died"
            assert end.cause.startswith("start: rank 2: the worker closed its socket")

    asyncio.run(scenario())


def test_who_did_not_say_hello_in_time_is_named(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 4, start_timeout=0.3) as made:
            await made.join(2)
            end = await made.end()
            assert end.cause == "start: no hello of rank 0, 1, 3 (of 4) within 0.3 s"

    asyncio.run(scenario())


def test_who_did_not_load_in_time_is_named(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3, load_timeout=0.3) as made:
            ranks = [await made.join(number) for number in range(3)]
            ranks[1].report_loaded()
            end = await made.end()
            assert end.kind == "load_failed"
            cause = "load of rank 0, 2 (of 3): not finished within 0.3 s (option.model_loading_timeout)"
            assert end.cause == cause

    asyncio.run(scenario())


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_silent_rank_ends_the_group_and_is_named(tmp_path, stuck):
    async def scenario() -> None:
        async with played(tmp_path, stall_timeout=0.4) as made:
            await made.load()
            made.ranks[stuck].progress = None
            end = await made.end()
            assert end.kind == "stalled"
            assert end.cause == (
                f"rank {stuck} is silent while another rank answers (option.group_stall_timeout=0.4)"
            )

    asyncio.run(scenario())


def test_a_rank_that_stays_behind_ends_the_group_and_is_named(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, stall_timeout=0.4) as made:
            await made.load()
            made.ranks[0].progress = 7
            made.ranks[1].progress = 6
            end = await made.end()
            assert end.kind == "stalled"
            assert end.cause.startswith("rank 1 stands at 6 while another rank is at 7")

    asyncio.run(scenario())


def test_ranks_that_are_equally_slow_or_all_silent_do_not_end_the_group(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path, 3, stall_timeout=0.4) as made:
            await made.load()
            for answers in (5, None, 6):
                for rank in made.ranks:
                    rank.progress = answers
                await made.ranks[0].wait_for(Kind.PING, len(made.ranks[0].of_kind(Kind.PING)) + 12)
            assert made.group.takes_work
            assert not made.task.done()

    asyncio.run(scenario())


def test_an_answer_of_another_rank_than_0_ends_the_group_and_reaches_nobody(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path) as made:
            await made.load()
            job = job_of(1)
            batch = made.group.send([job])
            answer = AnswerHead(id=1, status=200, message="")
            made.ranks[1].tell(Kind.ANSWERS, AnswersHead(batch=batch.id, jobs=[answer], end=BatchEnd()))
            end = await made.end()
            assert (end.kind, made.answered) == ("died", [])
            assert end.cause == "rank 1 sent what only rank 0 may send (message kind 22)"

    asyncio.run(scenario())


def test_a_launcher_may_clean_up_when_its_group_is_killed(tmp_path):
    session = tmp_path / "session"

    async def scenario() -> None:
        at_start = f"trap 'rm {session}; exit 143' TERM; touch {session}"
        async with played(tmp_path, at_start=at_start) as made:
            await made.load()
            await eventually(session.exists)
            made.group.kill("hung", "of the test")
            assert (await made.end()).cause == "of the test"
            assert not session.exists()

    asyncio.run(scenario())


def test_a_group_that_is_killed_while_its_launcher_starts_ends(tmp_path):
    async def scenario() -> None:
        async with played(tmp_path) as made:
            while made.launched is None:  # noqa: ASYNC110  # any later there would be a process
                await asyncio.sleep(0)
            made.group.kill("hung", "of the test")
            assert (await made.end()).cause == "of the test"

    asyncio.run(scenario())


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_launcher_that_does_not_end_is_killed(tmp_path, is_loaded):
    async def scenario() -> None:
        async with played(tmp_path, at_start=f"trap '' TERM; touch {tmp_path}/ready") as made:
            await eventually((tmp_path / "ready").exists)
            if is_loaded:
                await made.load()
            made.group.kill("hung", "of the test")
            assert (await made.end()).cause == "of the test"

    asyncio.run(scenario())

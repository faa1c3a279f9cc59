"""Turns of large bodies: fair, bounded in one round of the loop, never stuck."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from frame.http.turns import Turns


def _run(story: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner() as runner:
        runner.run(story())


async def _rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_no_more_than_the_most_go_on_in_one_round_and_each_gets_its_turns() -> None:
    async def story() -> None:
        turns = Turns(2)
        rounds = 0
        by_round: Counter[int] = Counter()
        by_upload: Counter[int] = Counter()

        async def upload(number: int) -> None:
            for _ in range(10):
                await turns.take()
                by_round[rounds] += 1
                by_upload[number] += 1

        async with asyncio.TaskGroup() as group:
            uploads = [group.create_task(upload(number)) for number in range(7)]
            while not all(task.done() for task in uploads):
                await asyncio.sleep(0)
                rounds += 1
        assert max(by_round.values()) <= 4  # two rounds of ours may meet in one step of this watcher
        assert by_upload == dict.fromkeys(range(7), 10)

    _run(story)


def test_turns_are_given_first_come_first_served() -> None:
    async def story() -> None:
        turns = Turns(1)
        order: list[int] = []

        async def upload(number: int) -> None:
            await turns.take()
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(upload(number))
        assert order == list(range(5))

    _run(story)


def test_a_cancelled_upload_does_not_keep_the_others_waiting() -> None:
    async def story() -> None:
        turns = Turns(1)
        waiting = [asyncio.ensure_future(turns.take()) for _ in range(4)]
        await asyncio.sleep(0)  # the first has its turn
        waiting[1].cancel()
        waiting[2].cancel()
        await _rounds(4)
        assert [task.cancelled() for task in waiting] == [False, True, True, False]
        assert waiting[3].done()

    _run(story)


def test_a_lone_upload_never_waits() -> None:
    async def story() -> None:
        turns = Turns(1)
        for _ in range(3):
            with pytest.raises(StopIteration):  # how a coroutine returns
                turns.take().send(None)
            await _rounds(2)

    _run(story)

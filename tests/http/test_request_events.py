"""The queue between a connection and the app of one request."""

from __future__ import annotations

import asyncio

from frame.http.request_events import RequestEvents

from tests.http.serving import DEADLINE, run

_CHUNK = {"type": "http.request", "body": b"x" * 65536, "more_body": True}
_GONE = {"type": "http.disconnect"}


async def _fill(events: RequestEvents) -> asyncio.Task[None]:
    """Put chunks until `put` waits; return the put that waits."""
    for _ in range(1000):
        waiting = asyncio.create_task(events.put(_CHUNK))
        await asyncio.sleep(0)
        if not waiting.done():
            return waiting
    raise AssertionError("the queue has no bound")


def test_put_waits_while_the_app_is_behind_and_goes_on_when_it_reads() -> None:
    async def scenario() -> None:
        events = RequestEvents()
        waiting = await _fill(events)
        await events.get()
        await asyncio.wait_for(waiting, DEADLINE)

    run(scenario())


def test_put_stops_waiting_when_the_app_ends_without_reading() -> None:
    async def scenario() -> None:
        events = RequestEvents()
        waiting = await _fill(events)
        events.close()
        await asyncio.wait_for(waiting, DEADLINE)
        for _ in range(100):
            await asyncio.wait_for(events.put(_CHUNK), DEADLINE)

    run(scenario())


def test_disconnect_is_never_kept_waiting_and_given_for_ever() -> None:
    async def scenario() -> None:
        events = RequestEvents()
        waiting = await _fill(events)
        await asyncio.wait_for(events.put(_GONE), DEADLINE)
        while (await asyncio.wait_for(events.get(), DEADLINE)) != _GONE:
            pass
        assert await asyncio.wait_for(events.get(), DEADLINE) == _GONE
        await asyncio.wait_for(waiting, DEADLINE)

    run(scenario())


def test_events_keep_their_order() -> None:
    async def scenario() -> None:
        events = RequestEvents()
        reading = asyncio.create_task(events.get())
        await asyncio.sleep(0)
        for number in range(3):
            await events.put({"type": "http.request", "body": b"%d" % number})
        bodies = [(await asyncio.wait_for(reading, DEADLINE))["body"]]
        bodies += [(await events.get())["body"] for _ in range(2)]
        assert bodies == [b"0", b"1", b"2"]

    run(scenario())


def test_small_pieces_that_wait_are_given_as_one() -> None:
    async def scenario() -> None:
        events = RequestEvents()
        for number in range(10_000):
            await events.put({"type": "http.request", "body": b"%d," % number, "more_body": True})
        await events.put({"type": "http.request", "body": b"", "more_body": False})
        await events.put(_GONE)
        got = await events.get()
        assert got == {
            "type": "http.request", "body": b"".join(b"%d," % n for n in range(10_000)), "more_body": False,
        }  # fmt: skip
        assert type(got["body"]) is bytes
        assert await events.get() == _GONE

    run(scenario())


def test_joined_pieces_fill_the_queue_as_single_ones_do() -> None:
    async def scenario() -> None:
        events = RequestEvents(100)
        for _ in range(10):
            await events.put({"type": "http.request", "body": b"x" * 10, "more_body": True})
        waiting = asyncio.create_task(events.put({"type": "http.request", "body": b"y", "more_body": True}))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert (await events.get())["body"] == b"x" * 100 + b"y"
        await asyncio.wait_for(waiting, DEADLINE)

    run(scenario())

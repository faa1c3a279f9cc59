"""Streams of several ranks: cancelled, unread and side by side, and never one rank a token apart."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, Order
from tests.process.probes import Gate, connection, metric, until
from tests.process.rank_models import (
    assert_right,
    post,
    put_ranks,
    ranks_of,
    send,
    stream_order,
    sum_order,
    text_of,
    wait_ranks,
)

pytestmark = pytest.mark.slow(120)

RANKS = {"two": 2, "four": 4}
CANCELLED = 200
LENGTH = 300  # tokens of a stream that is to be cancelled

each_model = pytest.mark.parametrize("model", RANKS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve two ranks under mpirun and four without MPI, up to four requests in a batch."""
    store = tmp_path_factory.mktemp("store")
    put_ranks(store, "two", 2, batch_size=4)
    put_ranks(store, "four", 4, batch_size=4, option__launcher="spawn")
    with run_server(store) as running:
        yield running


@pytest.fixture
def same_ranks(server: Server, model: str) -> Iterator[list[int]]:
    """Hold that a model's ranks are the same after a test, and that they still work together."""
    ranks = wait_ranks(server, model)
    yield ranks
    made = sum_order(model, RANKS[model])
    assert_right(made, post(server, made))
    assert ranks_of(server, model) == ranks


def cancel(server: Server, made: Order, after: int) -> None:
    """Read so many tokens of a stream, then go away; none: perhaps before it has begun."""
    with connection(server) as raw:
        send(raw, made)
        if after:
            raw.read_until(f"{made.token} {after - 1:06d} ".encode())


def ends_of(prefix: Path, rank: int) -> Counter[str]:
    """Return which streams ended at which token on a rank."""
    path = Path(f"{prefix}.{rank}")
    return Counter(path.read_text().splitlines() if path.exists() else ())


@each_model
@pytest.mark.usefixtures("same_ranks")
def test_streams_cancelled_at_any_token_under_load_end_on_all_ranks_at_once(
    server: Server, model: str, tmp_path: Path
) -> None:
    prefix, ranks = tmp_path / "ends", RANKS[model]
    streams = (
        stream_order(model, ranks, random.randrange(1, 60), ends=str(prefix)) for _ in itertools.count()
    )
    sums = (sum_order(model, ranks) for _ in itertools.count())
    todo = itertools.chain.from_iterable(zip(streams, streams, sums, strict=True))
    cuts = [random.randrange(60) for _ in range(CANCELLED)]

    def cut(after: int) -> None:
        cancel(server, stream_order(model, ranks, LENGTH, ends=str(prefix)), after)

    with Load(server.url, todo, connections=4) as load, ThreadPoolExecutor(4) as pool:
        list(pool.map(cut, cuts))
    load.accounts().assert_settled("200")
    assert load.answers
    post(server, sum_order(model, ranks))  # all that was cancelled has ended once it is answered
    until(lambda: ends_of(prefix, 0) == ends_of(prefix, ranks - 1))
    for rank in range(ranks):
        assert ends_of(prefix, rank) == ends_of(prefix, 0)
    early = [line for line in ends_of(prefix, 0) if int(line.split()[1]) in range(1, LENGTH)]
    assert len(early) > CANCELLED / 2, "cancelling did not end the streams"


def start_as_one_batch(
    server: Server, model: str, gate: Gate, start: list[Callable[[], None]], pool: ThreadPoolExecutor
) -> Future[httpx.Response]:
    """Hold a group at a gate until these requests wait in the queue; they run as one batch then."""
    first = pool.submit(post, server, sum_order(model, RANKS[model], gate=str(gate)))
    gate.wait_reached()
    for begin in start:
        begin()
    until(lambda: metric(server, "frame_queue_length", model=model) == len(start))
    gate.open()
    return first


@each_model
@pytest.mark.usefixtures("same_ranks")
def test_streams_of_one_batch_are_each_right_and_of_their_own_length(
    server: Server, model: str, tmp_path: Path
) -> None:
    made = [stream_order(model, RANKS[model], tokens) for tokens in (1, 40, 7)]
    made.append(sum_order(model, RANKS[model]))
    with ThreadPoolExecutor(8) as pool:
        answers: list[Future[httpx.Response]] = []
        begin = [lambda item=item: answers.append(pool.submit(post, server, item)) for item in made]
        start_as_one_batch(server, model, Gate(tmp_path), begin, pool)
        for item, answer in zip(made, answers, strict=True):
            assert_right(item, answer.result())
        assert answers[-1].result().json()["batch"] == 4


@each_model
@pytest.mark.usefixtures("same_ranks")
def test_unread_streams_hold_up_neither_their_batch_nor_the_ranks(
    server: Server, model: str, tmp_path: Path
) -> None:
    ranks = RANKS[model]
    slow = [stream_order(model, ranks, 600, pad=20_000) for _ in range(2)]  # 12 MB: fits in no buffer
    fast = stream_order(model, ranks, 200)
    with connection(server) as read_late, connection(server) as never_read, ThreadPoolExecutor(4) as pool:
        answers: list[Future[httpx.Response]] = []
        begin: list[Callable[[], None]] = [
            lambda: send(read_late, slow[0]),
            lambda: send(never_read, slow[1]),
            lambda: answers.append(pool.submit(post, server, fast)),
        ]
        start_as_one_batch(server, model, Gate(tmp_path), begin, pool)
        assert_right(fast, answers[0].result())
        before = ranks_of(server, model)
        waited = time.monotonic() + 4  # longer than group_stall_timeout: to wait for a reader is no stall
        until(lambda: time.monotonic() > waited)
        assert ranks_of(server, model) == before
        never_read.close()
        body = read_late.read_until(b"0\r\n\r\n")
    found = re.findall(rb"token-\S+ \d+ \d+", body)
    assert b"\n".join(found) + b"\n" == text_of(slow[0].token, 600, ranks)

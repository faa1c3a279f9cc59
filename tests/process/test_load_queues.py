"""Full queues, slow clients, vanishing clients and time-outs: each is counted, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Load, Order, order, orders
from tests.process.load_models import TELLING, WILLING
from tests.process.probes import JSON, Connection, Gate, connection, metric, put_model, until, worker_pids

FULL = "503 CapacityError"
LATE = "503 PredictTimeoutError"


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a model with a short queue, one with a short time, and two that take what comes."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "short", WILLING, job_queue_size=5, minWorkers=1, maxWorkers=1)
    put_model(store / "brief", WILLING, request_timeout=0.5, minWorkers=1, maxWorkers=1)
    put_model(store / "pair", WILLING, minWorkers=2, maxWorkers=2, slots_per_group=1)
    put_model(store / "tell", TELLING, minWorkers=2, maxWorkers=2, slots_per_group=1)
    with run_server(store, ["--http-server", request.param]) as running:
        until(lambda: metric(running, "frame_workers", state="ready") == 6)
        yield running


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Gate]]:
    """Give two gates that nobody stands at when the test is over."""
    made = [Gate(tmp_path, "left"), Gate(tmp_path, "right")]
    yield made
    for gate in made:
        gate.pass_on()


def begin(raw: Connection, todo: Order, sent: int | None = None) -> None:
    """Send a request, or the first `sent` bytes of its body."""
    (body,) = todo.parts
    raw.send(f"POST {todo.path}", {**JSON, "content-length": len(body)}, body[:sent])


def read_answer(raw: Connection) -> object:
    """Return the JSON of an answer with a length."""
    head = raw.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return json.loads(raw.read_until(b"}"))


def queued(server: Server, model: str) -> float:
    """Return how many requests of a model wait."""
    return metric(server, "frame_queue_length", model=model)


def assert_nothing_is_left(server: Server, model: str, workers: int) -> None:
    """Hold that nothing waits, nothing runs, and that no worker was lost."""
    until(lambda: metric(server, "frame_workers", model=model, state="ready") == workers)
    assert queued(server, model) == 0
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    assert metric(server, "frame_worker_restarts_total", model=model) == 0


def test_exactly_those_beyond_the_queue_are_503_with_retry_after(server: Server, gates: list[Gate]) -> None:
    gate = gates[0]
    with Load(server.url, [order("short", gate=str(gate))], connections=1) as first:
        gate.wait_reached()
        with Load(server.url, orders("short", 50), connections=50) as load:
            until(lambda: len(load.answers) == 45)
            assert queued(server, "short") == 5
            gate.open()
            accounts = load.accounts()
        first.accounts().assert_settled("200")
    accounts.assert_settled("200", FULL)
    assert accounts.kinds == {"200": 5, FULL: 45}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in accounts.of(FULL))
    assert_nothing_is_left(server, "short", 1)


def test_bodies_that_trickle_in_are_answered_and_delay_nobody(server: Server) -> None:
    slow = [order("pair") for _ in range(20)]
    with ExitStack() as stack, Load(server.url, orders("pair"), connections=4) as load:
        lanes = [stack.enter_context(connection(server)) for _ in slow]
        for raw, todo in zip(lanes, slow, strict=True):
            begin(raw, todo, sent=0)
        for position in range(len(slow[0].parts[0])):
            progress = len(load.answers)
            for raw, todo in zip(lanes, slow, strict=True):
                raw.socket.sendall(todo.parts[0][position : position + 1])
            until(lambda before=progress: len(load.answers) >= before + 4)
        tokens = [read_answer(raw)["token"] for raw in lanes]
        load.stop()
        load.accounts().assert_settled("200")
    assert tokens == [todo.token for todo in slow]
    assert_nothing_is_left(server, "pair", 2)


def test_answers_that_are_read_late_are_whole_and_hold_up_nobody(server: Server) -> None:
    """They are larger than what the sockets hold, and more than there are workers."""
    size = 8_000_000
    slow = [order("pair", reply=size) for _ in range(6)]
    with ExitStack() as stack:
        lanes = [stack.enter_context(connection(server)) for _ in slow]
        for raw, todo in zip(lanes, slow, strict=True):
            begin(raw, todo)
        with Load(server.url, orders("pair", 200), connections=4) as load:
            load.accounts().assert_settled("200")
        answers = [read_answer(raw) for raw in lanes]
    assert [answer["token"] for answer in answers] == [todo.token for todo in slow]
    assert {len(answer["reply"]) for answer in answers} == {size}
    assert_nothing_is_left(server, "pair", 2)


def test_clients_that_vanish_from_the_queue_are_not_run_and_those_that_stay_are_answered(
    server: Server, gates: list[Gate], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    before = metric(server, "frame_requests_total", model="pair", outcome="cancelled")
    with Load(server.url, [order("pair", gate=str(gate)) for gate in gates], connections=2) as running:
        for gate in gates:
            gate.wait_reached()
        with ExitStack() as stack, Load(server.url, orders("pair", 20), connections=20) as stay:
            gone = [order("pair", seen=str(seen)) for _ in range(20)]
            for todo in gone:
                begin(stack.enter_context(connection(server)), todo)
            until(lambda: queued(server, "pair") == 40)
            stack.close()
            until(lambda: queued(server, "pair") == 20)
            for gate in gates:
                gate.open()
            stay.accounts().assert_settled("200")
        running.accounts().assert_settled("200")
    assert not seen.exists()
    assert metric(server, "frame_requests_total", model="pair", outcome="cancelled") == before + 20
    assert_nothing_is_left(server, "pair", 2)


def test_clients_that_vanish_at_any_moment_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    pids = worker_pids(server, "pair")
    ended = tmp_path / "ended"
    streams = 0
    with Load(server.url, orders("pair"), connections=4) as load:
        for number in range(60):
            with connection(server) as raw:
                if number % 3 == 0:
                    begin(raw, order("pair"), sent=number % 20)
                elif number % 3 == 1:
                    begin(raw, order("pair", sleep=0.001 * (number % 5)))
                else:
                    streams += 1
                    begin(raw, order("tell", pieces=10**9, sleep=0.0001, ended=str(ended)))
                    raw.read_until(b"000003")
        load.stop()
        load.accounts().assert_settled("200")
    until(lambda: ended.exists() and len(ended.read_text().split()) == streams, what="streams were cancelled")
    assert worker_pids(server, "pair") == pids
    assert_nothing_is_left(server, "pair", 2)
    assert_nothing_is_left(server, "tell", 2)


@pytest.mark.parametrize(("model", "headers"), [("pair", {"x-request-timeout": "0.4"}), ("brief", {})])
def test_requests_that_wait_too_long_are_503_and_never_run(
    server: Server, gates: list[Gate], tmp_path: Path, model: str, headers: dict[str, str]
) -> None:
    """The time is over while all workers stand at a gate."""
    gates = gates[: 2 if model == "pair" else 1]
    seen = tmp_path / "seen"
    holding = [order(model, gate=str(gate)) for gate in gates]
    with Load(server.url, holding, connections=len(gates)) as held:
        for gate in gates:
            gate.wait_reached()
        waiting = orders(model, 10, headers=headers, seen=str(seen))
        with Load(server.url, waiting, connections=10) as late:
            late.accounts().assert_settled(LATE)
        assert queued(server, model) == 0
        for gate in gates:
            gate.open()
        held.accounts().assert_settled("200" if model == "pair" else LATE)
    with Load(server.url, orders(model, 10), connections=1) as after:
        after.accounts().assert_settled("200")
    assert not seen.exists()
    assert_nothing_is_left(server, model, len(gates))


def test_request_that_runs_too_long_is_503_and_its_worker_goes_on(server: Server, gates: list[Gate]) -> None:
    pids = worker_pids(server, "pair")
    gate = gates[0]
    todo = order("pair", headers={"x-request-timeout": "0.3"}, gate=str(gate))
    with Load(server.url, [todo], connections=1) as late:
        gate.wait_reached()
        late.accounts().assert_settled(LATE)
    with Load(server.url, orders("pair", 50), connections=2) as others:
        others.accounts().assert_settled("200")
    gate.open()
    assert_nothing_is_left(server, "pair", 2)
    assert worker_pids(server, "pair") == pids


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1s", "1e400"])
def test_request_time_that_is_no_time_is_400(server: Server, value: str) -> None:
    with Load(server.url, [order("pair", headers={"x-request-timeout": value})], connections=1) as load:
        load.accounts().assert_settled("400 BadRequestError")


def test_client_cannot_prolong_the_time(server: Server, gates: list[Gate]) -> None:
    gate = gates[0]
    todo = order("brief", headers={"x-request-timeout": "1000000"}, gate=str(gate))
    with Load(server.url, [todo], connections=1) as load:
        gate.wait_reached()
        load.accounts().assert_settled(LATE)
        gate.open()
    with Load(server.url, [order("brief", headers={"x-request-timeout": "1000000"})], connections=1) as load:
        load.accounts().assert_settled("200")

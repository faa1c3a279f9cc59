"""Workers that follow the load, the order of what waits, and shapes that are not stacked together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import onnx
import pytest
from frame.testing import Server, run_server
from onnx import TensorProto, helper

from tests.process.load_client import Load, Order, new_token, order, orders
from tests.process.load_models import WILLING
from tests.process.probes import Gate, describe, is_alive, metric, put_model, until, worker_pids

MOST = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve models that grow, on a machine that is said to have cores enough for all of them."""
    store = tmp_path_factory.mktemp("store")
    grows = {"minWorkers": 1, "maxWorkers": MOST, "max_idle_time": 1}
    put_model(store / "apart", WILLING, slots_per_group=1, **grows)
    put_model(store / "shared", engine="echo", option__delay_ms=20, **grows)
    put_model(store / "sleeper", WILLING, minWorkers=0, maxWorkers=2, max_idle_time=1, slots_per_group=1)
    put_model(store / "one", WILLING, minWorkers=1, maxWorkers=1)
    put_sum(store / "sum", batch_size=8, max_batch_delay=20, minWorkers=2, maxWorkers=2)
    with run_server(store, environ={"SERVING_CPU_THREADS": "32"}) as running:
        yield running


def put_sum(folder: Path, **properties: object) -> None:
    """Write an ONNX model that sums rows of any length: float32 [rows, length] to [rows, 1]."""
    put_model(folder, **properties)
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "length"])
    given = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["total"])
    graph = helper.make_graph([node], "sum", [taken], [given], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")


def workers(server: Server, model: str) -> int:
    """Return how many workers take requests."""
    return int(sum(metric(server, "frame_workers", model=model, state=state) for state in ("ready", "busy")))


@pytest.mark.parametrize(("model", "work"), [("apart", {"sleep": 0.02}), ("shared", {})])
def test_workers_come_under_a_backlog_and_go_when_idle(
    server: Server, model: str, work: dict[str, object]
) -> None:
    (first,) = until(lambda: worker_pids(server, model))
    with Load(server.url, orders(model, **work), connections=60) as load:
        until(lambda: workers(server, model) == MOST, what="all workers")
        pids = worker_pids(server, model)
        load.stop()
        load.accounts().assert_settled("200")
    assert len(pids) == (MOST if model == "apart" else 1), "a shared copy grows by threads"
    loads = MOST if model == "apart" else 1
    assert metric(server, "frame_model_load_seconds_count", model=model) == loads
    with Load(server.url, orders(model, **work), connections=1) as light:  # its requests see the others go
        until(lambda: workers(server, model) == 1, what="one worker")
        light.stop()
        light.accounts().assert_settled("200")
    if model == "shared":
        assert worker_pids(server, model) == [first]
    until(lambda: sum(is_alive(pid) for pid in pids) == 1)
    assert metric(server, "frame_worker_restarts_total", model=model) == 0


def test_model_without_a_minimum_sleeps_and_wakes_for_requests_which_wait(server: Server) -> None:
    for _ in range(2):
        until(lambda: workers(server, "sleeper") == 0)
        until(lambda: worker_pids(server, "sleeper") == [])
        with Load(server.url, orders("sleeper", 60, sleep=0.005), connections=20) as load:
            accounts = load.accounts()
        accounts.assert_settled("200")
        assert describe(server, "sleeper")["status"] != "FAILED"
    assert metric(server, "frame_worker_restarts_total", model="sleeper") == 0


def test_smaller_priorities_go_first_and_equal_ones_in_order(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    seen = tmp_path / "seen"
    sent: dict[int, list[str]] = {4: [], 3: [], 0: []}
    with ExitStack() as stack:
        stack.callback(gate.pass_on)
        ahead = [order("one", gate=str(gate)), order("one")]  # one runs, one is the only worker's next batch
        todo = ahead + [
            order("one", headers={"x-priority": str(priority)}, seen=str(seen))
            for _ in range(4)
            for priority in sent
        ]
        loads = []
        for number, one in enumerate(todo):
            loads.append(stack.enter_context(Load(server.url, [one], connections=1)))
            if number == 0:
                gate.wait_reached()
            until(lambda wanted=number: metric(server, "frame_queue_length", model="one") == wanted)
        for position, one in enumerate(todo[2:]):
            sent[list(sent)[position % 3]].append(one.token)
        gate.open()
        for load in loads:
            load.accounts().assert_settled("200")
    assert seen.read_text().split() == [*sent[0], *sent[3], *sent[4]]


def test_request_of_low_priority_is_answered_under_an_endless_load_of_urgent_ones(server: Server) -> None:
    """At any moment several urgent ones wait, so without ageing it would wait for ever."""
    urgent, late = {"x-priority": "3"}, {"x-priority": "4"}
    with Load(server.url, orders("one", headers=urgent, sleep=0.002), connections=16) as load:
        until(lambda: len(load.answers) >= 16)
        with Load(server.url, [order("one", headers=late)], connections=1) as low:
            low.accounts().assert_settled("200")
        load.stop()
        load.accounts().assert_settled("200")


def test_interleaved_shapes_are_batched_apart_and_no_batch_is_split(server: Server) -> None:
    def asking(number: int) -> Order:
        """Ask for the sum of 3 or 5 numbers that no other request has."""
        row = [float(number), *[0.25] * (2 if number % 2 else 4)]
        wanted = {"predictions": [[sum(row)]]}
        return Order(
            token=new_token(),
            path="/predictions/sum",
            parts=(json.dumps({"inputs": [row]}).encode(),),
            is_right=lambda body: json.loads(body) == wanted,
        )

    with Load(server.url, map(asking, range(600)), connections=24) as load:
        load.accounts().assert_settled("200")
    assert metric(server, "frame_batch_splits_total", model="sum") == 0
    batches = metric(server, "frame_batch_size_count", model="sum")
    assert batches <= 300, "two and more together"

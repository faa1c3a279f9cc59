"""Requests are shared among the versions of a model; a version that does worse is taken back by itself."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.load_client import Answer, Load, orders
from tests.process.probes import DEADLINE, metric, put_model, until

pytestmark = pytest.mark.slow(180)

# Errs and dies on a share of the requests, chosen by their tokens: the same ones whenever they are run.
VERSION = """
import os
import signal
import time
import zlib

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    order = inputs.get_as_json()
    time.sleep({sleep})
    chance = zlib.crc32(order["token"].encode()) % 1000 / 1000
    if chance < {dies}:
        os.kill(os.getpid(), signal.SIGKILL)
    if chance < {errs}:
        raise ValueError("planted")
    score = {score} + ({off} if chance < 0.5 else 0)
    answer = {"token": order["token"], "score": score}
    return Output().add_as_json(answer if {shy} else {**answer, "version": "{version}"})
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve nothing yet."""
    (tmp_path / "store").mkdir()
    with run_server(tmp_path / "store") as running:
        yield running


def add_version(server: Server, folder: Path, version: str, **facts: float) -> None:
    """Register a version of the model `m` that sleeps, errs, dies or is off in its score."""
    text = VERSION.replace("{version}", version)
    for name, value in (
        {"sleep": 0.005, "dies": 0, "errs": 0, "score": 1.0, "off": 0, "shy": 0} | facts
    ).items():
        text = text.replace(f"{{{name}}}", str(value))
    path = put_model(folder / f"m{version}", text, minWorkers=1, maxWorkers=2)
    query = {"url": str(path), "model_name": "m", "model_version": version}
    answer = httpx.post(f"{server.url}/models", params=query, timeout=2 * DEADLINE)
    assert answer.status_code == 200, answer.text


def rule(server: Server, **rules: object) -> httpx.Response:
    """Set the traffic rules of the model."""
    return httpx.put(f"{server.url}/models/m/traffic", json=rules, timeout=DEADLINE)


def traffic(server: Server) -> dict[str, object]:
    """Return what `GET /models/m/traffic` says."""
    answer = httpx.get(f"{server.url}/models/m/traffic", timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def version_of(answer: Answer) -> str:
    """Return the version that answered, by its header."""
    return answer.headers.get("x-frame-model-version", "")


def ask(server: Server, path: str = "m") -> tuple[int, str]:
    """Ask once; return the status and the version that says it answered."""
    answer = httpx.post(f"{server.url}/predictions/{path}", json={"token": "x"}, timeout=DEADLINE)
    return answer.status_code, answer.json().get("version", "")


def test_weights_share_requests_out_and_labels_name_versions(server: Server, tmp_path: Path) -> None:
    add_version(server, tmp_path, "1")
    assert rule(server, default="1", labels={"stable": "1"}).status_code == 200
    add_version(server, tmp_path, "2")
    assert {ask(server) for _ in range(5)} == {(200, "1")}  # the newest gets nothing yet
    assert ask(server, "m/2") == (200, "2")
    assert rule(server, weights={"1": 9, "2": 1}, labels={"stable": "1", "next": "2"}).status_code == 200
    with Load(server.url, orders("m", 200), connections=4) as load:
        accounts = load.accounts()
    accounts.assert_settled("200")
    counts = Counter(map(version_of, accounts.answers))
    assert (counts["1"], counts["2"]) == (pytest.approx(180, abs=1), pytest.approx(20, abs=1))
    assert all(json.loads(answer.body)["version"] == version_of(answer) for answer in accounts.answers)
    assert metric(server, "frame_traffic_share", model="m", version="2") == pytest.approx(0.1)
    assert [ask(server, path) for path in ("m/stable", "m/next", "m/1")] == [
        (200, "1"), (200, "2"), (200, "1"),
    ]  # fmt: skip
    assert ask(server, "m/other")[0] == 404
    shown = traffic(server)
    assert shown["rules"] == {"weights": {"1": 9.0, "2": 1.0}, "labels": {"stable": "1", "next": "2"}}
    assert httpx.delete(f"{server.url}/models/m/next", timeout=DEADLINE).status_code == 404  # a label
    assert httpx.delete(f"{server.url}/models/m/traffic", timeout=DEADLINE).status_code == 200
    assert ask(server) == (200, "2")


WRONG_RULES: list[tuple[dict[str, object], str]] = [
    ({"weights": {"1": 1, "3": 1}}, "Parameter weights: no version 3; there are: 1."),
    ({"default": "2"}, "Parameter default: no version 2"),
    ({"labels": {"1": "1"}}, "Parameter labels: 1 is the name of a version."),
    ({"labels": {"a": "2"}}, "Parameter labels: a: no version 2"),
    ({"shadow": {"version": "2"}}, "Parameter shadow: no version 2"),
    ({"shadow": {"version": "1", "share": 2}}, "share: expected 0 to 1"),
    ({"shadow": {"share": 1}}, "version"),
    ({"weights": {"1": "much"}}, "$.weights"),
    ({"weight": {"1": 1}}, "Parameter weight: unknown"),
    ({"shadow": {"version": "1", "color": 1}}, "Parameter shadow.color: unknown"),
    ({"weights": {"1": 1}, "rollback": {"version": "1"}}, "expected a baseline"),
]


def test_rules_that_make_no_sense_are_400_and_change_nothing(server: Server, tmp_path: Path) -> None:
    add_version(server, tmp_path, "1")
    assert rule(server, default="1").status_code == 200
    for rules, said in WRONG_RULES:
        answer = rule(server, **rules)
        assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestError"), rules
        assert said in answer.json()["message"], rules
    assert traffic(server)["rules"] == {"default": "1"}
    missing = httpx.put(f"{server.url}/models/none/traffic", json={}, timeout=DEADLINE)
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("facts", "cause", "failures"),
    [
        ({"errs": 0.05}, "errors", {"424"}),
        ({"sleep": 0.015}, "latency", set()),
        ({"dies": 0.05}, "deaths", {"503 WorkerDiedError"}),
    ],
)
def test_a_version_that_does_worse_is_rolled_back_and_nobody_else_pays(
    server: Server, tmp_path: Path, facts: dict[str, float], cause: str, failures: set[str]
) -> None:
    add_version(server, tmp_path, "1")
    add_version(server, tmp_path, "2", **facts)
    assert rule(server, weights={"1": 3, "2": 1}, rollback={"version": "2"}).status_code == 200
    with Load(server.url, orders("m"), connections=4) as load:
        until(lambda: traffic(server)["rollbacks"], seconds=90)
        after = len(load.answers)
        until(lambda: len(load.answers) > after + 100)
    accounts = load.accounts()
    accounts.assert_settled("200", *failures)
    failed = [answer for answer in accounts.answers if answer.status != 200]
    assert {version_of(answer) for answer in failed} <= {"2"}
    late = Counter(map(version_of, accounts.answers[after:]))
    assert late["2"] <= 4  # what each connection had under way
    assert late["1"] >= 96
    (rollback,) = traffic(server)["rollbacks"]  # type: ignore[misc]
    assert (rollback["version"], rollback["cause"]) == ("2", cause)
    assert traffic(server)["rules"] == {"weights": {"1": 3.0}}
    assert metric(server, "frame_rollbacks_total", model="m", version="2", cause=cause) == 1
    assert f"version_rolled_back model=m version=2 cause={cause}" in server.log()


def test_a_version_that_does_as_well_keeps_its_share(server: Server, tmp_path: Path) -> None:
    add_version(server, tmp_path, "1", errs=0.03)
    add_version(server, tmp_path, "2", errs=0.03)
    assert rule(server, weights={"1": 1, "2": 1}, rollback={"version": "2"}).status_code == 200
    with Load(server.url, orders("m", 1900), connections=4) as load:
        accounts = load.accounts()
    shown = traffic(server)
    assert shown["rollbacks"] == []
    counts = Counter(map(version_of, accounts.answers))
    assert (counts["1"], counts["2"]) == (pytest.approx(950, abs=1), pytest.approx(950, abs=1))
    trial = shown["trial"]
    assert isinstance(trial, dict)
    failed = Counter(version_of(answer) for answer in accounts.answers if answer.status == 424)
    assert {version: trial[version]["failures"] for version in "12"} == failed
    assert all(trial[version]["requests"] == counts[version] for version in "12")
    assert trial["1"]["p50Millis"] >= 5


def test_a_shadow_gets_copies_whose_answers_are_counted_and_never_seen(
    server: Server, tmp_path: Path
) -> None:
    add_version(server, tmp_path, "1", shy=1)
    add_version(server, tmp_path, "2", shy=1, score=1.01, off=0.5)
    assert rule(server, default="1", shadow={"version": "2", "tolerance": 0.1}).status_code == 200
    with Load(server.url, orders("m", 200), connections=4) as load:
        accounts = load.accounts()
    accounts.assert_settled("200")
    assert {json.loads(answer.body)["score"] for answer in accounts.answers} == {1.0}
    off = sum(zlib.crc32(answer.order.token.encode()) % 1000 < 500 for answer in accounts.answers)

    def counted(result: str) -> float:
        return metric(server, "frame_shadow_requests_total", model="m", version="2", result=result)

    until(lambda: counted("equal") + counted("different") == 200)
    assert counted("different") == off  # 0.01 is within the tolerance
    shadow = traffic(server)["shadow"]
    assert isinstance(shadow, dict)
    differences = shadow["2"]["differences"]
    assert len(differences) == 10
    assert {item["at"] for item in differences} == {"$.score"}
    tokens = {answer.order.token for answer in accounts.answers}
    assert all(item["requestId"] in tokens for item in differences)
    until(lambda: metric(server, "frame_queued_bytes") == 0)


def test_a_shadow_that_fails_hangs_or_is_full_costs_its_requests_nothing(
    server: Server, tmp_path: Path
) -> None:
    add_version(server, tmp_path, "1")
    add_version(server, tmp_path, "2", sleep=0.2, errs=0.5)
    assert rule(server, default="1", shadow={"version": "2", "share": 0.5}).status_code == 200
    with Load(server.url, orders("m", 400), connections=4) as load:
        accounts = load.accounts()
    accounts.assert_settled("200")
    shown = traffic(server)["shadow"]
    assert isinstance(shown, dict)
    assert shown["2"]["skipped"] > 0  # 64 wait at most
    assert httpx.delete(f"{server.url}/models/m/2", timeout=2 * DEADLINE).status_code == 200
    ends = until(lambda: _ended_shadows(server))
    assert ends["failed"] > 0
    assert sum(ends.values()) == 200
    until(lambda: metric(server, "frame_queued_bytes") == 0)


def _ended_shadows(server: Server) -> dict[str, int] | None:
    shadow = traffic(server)["shadow"]
    assert isinstance(shadow, dict)
    counts = {result: count for result, count in shadow["2"].items() if result != "differences"}
    return counts if sum(counts.values()) == 200 else None


def test_large_bodies_are_copied_without_being_held_for_ever(server: Server, tmp_path: Path) -> None:
    add_version(server, tmp_path, "1")
    add_version(server, tmp_path, "2", sleep=0.1)
    assert rule(server, default="1", shadow={"version": "2"}).status_code == 200
    with Load(server.url, orders("m", 40, filler="x" * (2 << 20)), connections=4) as load:
        accounts = load.accounts()
    accounts.assert_settled("200")
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    with httpx.Client(timeout=0.01) as client:  # clients that leave take their copies along
        for _ in range(20):
            with contextlib.suppress(httpx.TimeoutException):
                client.post(f"{server.url}/predictions/m", json={"token": "x"})
    until(lambda: metric(server, "frame_queued_bytes") == 0)
    assert ask(server) == (200, "1")


def test_a_version_may_not_be_called_as_a_label_or_default(server: Server, tmp_path: Path) -> None:
    add_version(server, tmp_path, "1")
    assert rule(server, labels={"stable": "1"}).status_code == 200
    query = {"url": str(tmp_path / "m1"), "model_name": "m"}
    for version, status in (("stable", 409), ("default", 400)):
        answer = httpx.post(
            f"{server.url}/models", params={**query, "model_version": version}, timeout=2 * DEADLINE
        )
        assert answer.status_code == status, answer.text
    assert ask(server, "m/stable") == (200, "1")


def test_what_was_rolled_back_stays_so_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    environ = {"SERVING_MODEL_SNAPSHOT": str(tmp_path / "snapshot.json")}
    with run_server(tmp_path / "store", environ=environ) as server:
        add_version(server, tmp_path, "1")
        add_version(server, tmp_path, "2", errs=1)
        assert rule(server, weights={"1": 1, "2": 1}, rollback={"version": "2"}).status_code == 200
        with Load(server.url, orders("m"), connections=4):
            until(lambda: traffic(server)["rollbacks"])
    with run_server(tmp_path / "store", environ=environ) as server:
        assert traffic(server)["rules"] == {"weights": {"1": 1.0}}


def test_the_version_that_gets_all_goes_under_load_and_the_newest_takes_over(
    server: Server, tmp_path: Path
) -> None:
    add_version(server, tmp_path, "1")
    add_version(server, tmp_path, "2")
    assert rule(server, weights={"1": 1}, labels={"stable": "1"}).status_code == 200
    with Load(server.url, orders("m"), connections=4) as load:
        until(lambda: len(load.answers) > 50)
        assert httpx.delete(f"{server.url}/models/m/1", timeout=2 * DEADLINE).status_code == 200
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 50)
    load.accounts().assert_settled("200")
    assert traffic(server)["rules"] == {}
    assert ask(server) == (200, "2")


def test_rules_are_there_again_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    environ = {"SERVING_MODEL_SNAPSHOT": str(tmp_path / "snapshot.json")}
    with run_server(tmp_path / "store", environ=environ) as server:
        add_version(server, tmp_path, "1")
        add_version(server, tmp_path, "2")
        assert rule(server, default="1", labels={"next": "2"}).status_code == 200
    with run_server(tmp_path / "store", environ=environ) as server:
        until(lambda: ask(server, "m/2")[0] == 200)
        until(lambda: ask(server)[0] == 200)
        assert traffic(server)["rules"] == {"default": "1", "labels": {"next": "2"}}
        assert (ask(server), ask(server, "m/next")) == ((200, "1"), (200, "2"))
        assert httpx.delete(f"{server.url}/models/m", timeout=2 * DEADLINE).status_code == 200
    assert json.loads((tmp_path / "snapshot.json").read_text()) == {
        "version": 1, "models": [], "traffic": {},
    }  # fmt: skip

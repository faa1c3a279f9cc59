"""What management requests say reaches the registry in its terms."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from frame.http.control import create_app
from frame.http.host import Registration, ScaledModel, WorkerChange
from frame.http.routes import default_table
from frame.policy.traffic import RollbackRule, ShadowRule, TrafficRules
from prometheus_client import CollectorRegistry

from tests.http.fake_host import FakeHost


class FakeRegistry:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def register(self, wanted: Registration, *, waits: bool) -> str:
        self.asked.append((wanted, waits))
        return wanted.name or "inferred"

    async def unregister(self, name: str, version: str | None) -> None:
        self.asked.append((name, version))

    async def change(self, name: str, version: str | None, settings: Mapping[str, str]) -> None:
        self.asked.append((name, version, dict(settings)))

    def set_traffic(self, name: str, rules: TrafficRules) -> None:
        self.asked.append((name, rules))

    async def scale(
        self, name: str, version: str | None, change: WorkerChange, *, waits: bool
    ) -> Sequence[ScaledModel]:
        self.asked.append((name, version, change, waits))
        return [ScaledModel(name=name, minimum=1, maximum=2), ScaledModel(name=name, minimum=3, maximum=4)]


def send(method: str, path: str, **more: Any) -> tuple[FakeRegistry, int, Any]:
    """Send one request; return the registry, the status and the JSON of the answer."""
    registry = FakeRegistry()
    app = create_app(FakeHost(), CollectorRegistry(), default_table(), models=registry)

    async def scenario() -> tuple[int, Any]:
        answer = await app.test_client().open(path, method=method, **more)
        return answer.status_code, await answer.get_json()

    status, body = asyncio.run(scenario())
    return registry, status, body


def test_djls_names_become_keys():
    query = "url=m.zip&device=gpu0&min_worker=1&max_worker=2&max_batch_delay=0&option.dtype=fp16"
    registry, status, body = send("POST", f"/models?{query}")
    ((wanted, waits),) = registry.asked
    assert (status, body, waits) == (200, {"status": 'Model "inferred" registered.'}, True)
    assert wanted == Registration(
        url="m.zip",
        settings={
            "load_on_devices": "gpu0",
            "minWorkers": "1",
            "maxWorkers": "2",
            "max_batch_delay": "0",
            "option.dtype": "fp16",
        },
    )


def test_json_values_are_read_as_text_and_the_query_wins():
    body = {"url": "a", "model_name": "x", "batch_size": 8, "load_on_demand": True, "synchronous": False}
    registry, status, _ = send("POST", "/models?batch_size=4", json=body)
    ((wanted, waits),) = registry.asked
    assert (status, waits) == (202, False)
    assert wanted == Registration(url="a", name="x", settings={"batch_size": "4", "load_on_demand": "true"})


def test_scaling_names_a_version_or_all():
    registry, status, body = send("PUT", "/models/m?min_worker=2&max_worker=-1&device=cpu")
    assert registry.asked == [("m", None, WorkerChange(minimum=2, device="cpu"), True)]
    assert status == 200
    assert body["status"].splitlines() == [
        'Workflow "m" worker scaled. New Worker configuration min workers:1 max workers:2',
        'Workflow "m" worker scaled. New Worker configuration min workers:3 max workers:4',
    ]
    registry, status, _ = send("PUT", "/models/m/v1?synchronous=false")
    assert registry.asked == [("m", "v1", WorkerChange(), False)]
    assert status == 202


def test_changes_are_passed_on_as_text():
    asked = send("PATCH", "/models/m/v1", json={"job_queue_size": 5, "request_timeout": 1.5})[0].asked
    assert asked == [("m", "v1", {"job_queue_size": "5", "request_timeout": "1.5"})]


def test_unregistering_names_a_version_or_all():
    assert send("DELETE", "/models/m")[0].asked == [("m", None)]
    assert send("DELETE", "/models/m/v1")[0].asked == [("m", "v1")]


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("PUT", "/models/m?min_worker=-2", "min_worker"),
        ("PUT", "/models/m?min_worker=1e3", "min_worker"),
        ("PUT", "/models/m?size=1", "size"),
        ("POST", "/models?url=a&max_idle_time=soon", "max_idle_time"),
        ("POST", "/models?url=a&model_version=1/2", "model_version"),
        ("POST", "/server/logging?level=", "level"),
        ("POST", "/server/logging?volume=11", "volume"),
    ],
)
def test_what_is_wrong_is_named(method, path, named):
    registry, status, body = send(method, path)
    assert (status, registry.asked) == (400, [])
    assert f"Parameter {named}:" in body["message"]


def test_a_body_that_is_too_large_is_refused():
    registry, status, _ = send("POST", "/models", json={"url": "x" * (2 << 20)})
    assert (status, registry.asked) == (413, [])


def test_other_methods_are_refused_with_those_that_are_there():
    assert send("PATCH", "/models")[1] == 405
    assert send("DELETE", "/models")[1] == 405


def test_traffic_rules_are_read_whole_and_forgotten_whole():
    rules = {
        "weights": {"1": 9, "default": 1.5},
        "labels": {"next": "default"},
        "shadow": {"version": "2", "share": 0.5},
        "rollback": {"version": "default", "max_deaths": 3},
    }
    registry, status, body = send("PUT", "/models/m/traffic", json=rules)
    assert registry.asked == [
        (
            "m",
            TrafficRules(
                weights={"1": 9.0, "default": 1.5},
                labels={"next": "default"},
                shadow=ShadowRule(version="2", share=0.5),
                rollback=RollbackRule(version="default", max_deaths=3),
            ),
        )
    ]
    assert status == 200
    assert '"share":0.5' in body["status"]
    registry, status, _ = send("DELETE", "/models/m/traffic")
    assert (registry.asked, status) == ([("m", TrafficRules())], 200)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"weights": {"1": 1e999}}', "no JSON"),
        (b'{"weights": [1]}', "$.weights"),
        (b'{"default": 1}', "$.default"),
        (
            b'{"rollback": {"version": "1", "max_deaths": 1.5}, "weights": {"1": 1, "2": 1}}',
            "$.rollback.max_deaths",
        ),
        (b'{"rollback": {"version": "1", "patience": 1}}', "rollback.patience: unknown"),
    ],
)
def test_traffic_rules_that_are_wrong_are_400_with_the_place(data: bytes, said: str):
    registry, status, body = send("PUT", "/models/m/traffic", data=data)
    assert (registry.asked, status) == ([], 400)
    assert said in body["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"url":"x","a":' + b"9" * 5000 + b"}"]
)
def test_json_that_is_too_deep_or_too_long_a_number_is_none(method: str, body: bytes) -> None:
    path = "/models" if method == "POST" else "/models/m"
    headers = {"content-type": "application/json"}
    registry, status, answer = send(method, path, data=body, headers=headers)
    assert (registry.asked, status, answer["message"]) == ([], 400, "The body is no JSON.")


@pytest.mark.parametrize("name", ["url", "model_name", "device", "\ud800"])
def test_half_of_a_character_is_refused(name: str) -> None:
    registry, status, answer = send("POST", "/models", json={"url": "m", name: "a\udc00b"})
    assert (registry.asked, status) == ([], 400)
    assert "half of a character" in answer["message"]


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x7f"])
def test_control_characters_in_a_url_are_refused(character: str) -> None:
    registry, status, answer = send("POST", "/models", json={"url": f"m{character}.zip"})
    assert (registry.asked, status, answer["message"]) == (
        [], 400, "Parameter url: it has a control character.",
    )  # fmt: skip

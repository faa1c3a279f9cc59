"""The control plane: health, models, metrics, and what bad requests get."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from frame.api import Signature, TensorSpec
from frame.http.control import create_app
from frame.http.host import ModelView, RankView
from frame.http.routes import Endpoint, RouteTable
from prometheus_client import CollectorRegistry, Counter, Gauge

from tests.http.asking import asking
from tests.http.fake_host import FakeHost, group, model

PENDING = model("late", status="PENDING", reason="loading", groups=(group("starting"),))
FAILED = model("sick", status="FAILED", reason="no such file: x.onnx", groups=(), log_tail=("one", "two"))
SHORT = model("short", groups=(group("ready", "failed", "draining", minimum=2),))
WELL = model("well", groups=(group("ready", "busy", minimum=2),))


@pytest.mark.parametrize(
    ("views", "status", "body"),
    [
        ((), 200, {}),
        ((WELL,), 200, {"well": {"status": "Healthy"}}),
        ((SHORT,), 200, {"short": {"status": "Unhealthy"}}),
        (
            (PENDING, WELL),
            200,
            {"late": {"status": "PENDING", "reason": "loading"}, "well": {"status": "Healthy"}},
        ),
        (
            (FAILED, PENDING),
            500,
            {
                "late": {"status": "PENDING", "reason": "loading"},
                "sick": {"status": "FAILED", "reason": "no such file: x.onnx"},
            },
        ),
    ],
)
def test_ping_tells_each_models_health(views: tuple[ModelView, ...], status: int, body: object) -> None:
    got = asking(FakeHost(views))("/ping")
    assert (got.status, got.json) == (status, body)


def test_ping_answers_207_while_pending_only_when_asked_to() -> None:
    assert asking(FakeHost((PENDING,)), allow_multi_status=True)("/ping").status == 207
    assert asking(FakeHost((PENDING, FAILED)), allow_multi_status=True)("/ping").status == 500
    assert asking(FakeHost((WELL,)), allow_multi_status=True)("/ping").status == 200


def test_ping_fails_while_workers_are_missing_only_when_asked_to() -> None:
    assert asking(FakeHost((SHORT,)))("/ping").status == 200
    assert asking(FakeHost((SHORT,)), unhealthy_fails=True)("/ping").status == 500
    assert asking(FakeHost((WELL, PENDING)), unhealthy_fails=True)("/ping").status == 200


def test_ping_shows_the_worst_version_of_a_model() -> None:
    views = (
        model("m", version="1"),
        model("m", version="2", status="FAILED", reason="broken"),
        model("m", version="3", status="PENDING"),
    )
    got = asking(FakeHost(views))("/ping")
    assert (got.status, got.json) == (500, {"m": {"status": "FAILED", "reason": "broken"}})


def test_ping_shows_what_a_failed_model_wrote_last() -> None:
    failed = model("m", status="FAILED", reason="exit status 3", last_lines=("no vault", "bye"))
    got = asking(FakeHost((failed,)))("/ping")
    assert got.json == {"m": {"status": "FAILED", "reason": "exit status 3", "log": ["no vault", "bye"]}}


def test_model_that_sleeps_until_it_is_asked_is_healthy() -> None:
    asleep = model("m", groups=(group(minimum=1),), is_asleep=True)
    assert asking(FakeHost((asleep,)))("/ping").json == {"m": {"status": "Healthy"}}


def test_ping_answers_503_while_the_server_ends() -> None:
    got = asking(FakeHost((WELL,), is_draining=True))("/ping")
    assert (got.status, got.json["code"], got.json["type"]) == (503, 503, "ModelNotReadyError")


def test_models_are_listed_by_name_then_version() -> None:
    views = (model("b", version="2"), model("b", version="1"), model("a"), FAILED)
    got = asking(FakeHost(views))("/models")
    assert got.json == {
        "models": [
            {"modelName": "a", "modelUrl": "file:///store/a/", "status": "READY"},
            {"modelName": "b", "version": "1", "modelUrl": "file:///store/b/", "status": "READY"},
            {"modelName": "b", "version": "2", "modelUrl": "file:///store/b/", "status": "READY"},
            {"modelName": "sick", "modelUrl": "file:///store/sick/", "status": "FAILED"},
        ]
    }


def test_pages_of_models_cover_all_once() -> None:
    ask = asking(FakeHost(tuple(model(f"m{number:03d}") for number in range(230))))
    seen: list[str] = []
    query = ""
    sizes = []
    while True:
        page = ask(f"/models{query}").json
        sizes.append(len(page["models"]))
        seen += [entry["modelName"] for entry in page["models"]]
        if "nextPageToken" not in page:
            break
        query = f"?next_page_token={page['nextPageToken']}"
    assert sizes == [100, 100, 30]
    assert seen == [f"m{number:03d}" for number in range(230)]


@pytest.mark.parametrize(
    ("limit", "size", "token"), [("2", 2, "2"), ("3", 3, None), ("0", 3, None), ("-1", 3, None)]
)
def test_limit_of_a_page_is_kept_within_bounds(limit: str, size: int, token: str | None) -> None:
    page = asking(FakeHost((model("a"), model("b"), model("c"))))(f"/models?limit={limit}").json
    assert (len(page["models"]), page.get("nextPageToken")) == (size, token)


def test_limit_is_at_most_100() -> None:
    ask = asking(FakeHost(tuple(model(f"m{number}") for number in range(101))))
    assert len(ask("/models?limit=1000").json["models"]) == 100


@pytest.mark.parametrize(
    "query", ["limit=abc", "limit=", "limit=1.5", "limit=--1", "next_page_token=x", "limit=9999999999"]
)
def test_malformed_paging_parameter_is_named(query: str) -> None:
    got = asking(FakeHost())(f"/models?{query}")
    assert (got.status, got.json["type"]) == (400, "BadRequestError")
    assert query.split("=", maxsplit=1)[0] in got.json["message"]


def test_page_after_the_last_is_empty() -> None:
    assert asking(FakeHost((WELL,)))("/models?next_page_token=7").json == {"models": []}


def test_a_worker_of_several_ranks_is_described_with_them() -> None:
    plain = group("ready", device="gpu0+gpu1")
    ranks = (RankView(rank=0, pid=1001, host="a"), RankView(rank=1, pid=7, host="b"))
    view = model("m", groups=(replace(plain, workers=(replace(plain.workers[0], ranks=ranks),)),))
    (described,) = asking(FakeHost((view,)))("/models/m").json
    (worker,) = described["models"][0]["workerGroups"][0]["workers"]
    assert worker["ranks"] == [{"rank": 0, "pid": 1001, "host": "a"}, {"rank": 1, "pid": 7, "host": "b"}]


def test_model_is_described_with_all_that_djl_serving_tells_and_more() -> None:
    view = model(
        "m",
        version="1",
        requests_in_queue=3,
        groups=(group("ready", "draining"), group("busy", device="gpu1")),
        signature=Signature(
            (TensorSpec("x", "float32", (-1, 3)), TensorSpec("y", "str", None)),
            (TensorSpec("z", "int64", ()),),
        ),
        settings={
            "batch_size": ("8", "serving.properties:2"),
            "option.hf_token": ("hf_1", "OPTION_HF_TOKEN"),
        },
        log_tail=("not shown while ready",),
    )
    start = "2024-05-01T12:30:15.250Z"
    assert asking(FakeHost((view,)))("/models/m").json == [
        {
            "workflowName": "m",
            "version": "1",
            "models": [
                {
                    "modelName": "m",
                    "modelUrl": "file:///store/m/",
                    "engine": "onnx",
                    "batchSize": 8,
                    "maxBatchDelayMillis": 100,
                    "maxIdleSeconds": 60,
                    "queueSize": 1000,
                    "requestInQueue": 3,
                    "status": "Healthy",
                    "loadedAtStartup": True,
                    "signature": {
                        "inputs": [
                            {"name": "x", "dtype": "float32", "shape": [-1, 3]},
                            {"name": "y", "dtype": "str"},
                        ],
                        "outputs": [{"name": "z", "dtype": "int64", "shape": []}],
                    },
                    "settings": {
                        "batch_size": {"value": "8", "source": "serving.properties:2"},
                        "option.hf_token": {"value": "(hidden)", "source": "OPTION_HF_TOKEN"},
                    },
                    "workerGroups": [
                        {
                            "device": {"deviceType": "cpu", "deviceId": -1},
                            "minWorkers": 1,
                            "maxWorkers": 4,
                            "workers": [
                                {"id": 1, "pid": 1001, "startTime": start, "status": "READY"},
                                {"id": 2, "pid": 1002, "startTime": start, "status": "UNLOADING"},
                            ],
                        },
                        {
                            "device": {"deviceType": "gpu", "deviceId": 1},
                            "minWorkers": 1,
                            "maxWorkers": 4,
                            "workers": [{"id": 1, "pid": 1001, "startTime": start, "status": "READY"}],
                        },
                    ],
                }
            ],
        }
    ]


def test_failed_model_is_described_with_its_reason_and_last_log_lines() -> None:
    described = asking(FakeHost((FAILED,)))("/models/sick").json[0]["models"][0]
    assert described["status"] == "FAILED"
    assert described["reason"] == "no such file: x.onnx"
    assert described["log"] == ["one", "two"]


def test_version_picks_one_and_default_the_one_without() -> None:
    ask = asking(FakeHost((model("m", version="2"), model("m"), model("m", version="1"))))
    assert [found.get("version") for found in ask("/models/m").json] == [None, "1", "2"]
    assert [found.get("version") for found in ask("/models/m/2").json] == ["2"]
    assert [found.get("version") for found in ask("/models/m/default").json] == [None]


@pytest.mark.parametrize("path", ["/models/other", "/models/m/9", "/models/m/default"])
def test_unknown_model_or_version_is_404_and_named(path: str) -> None:
    got = asking(FakeHost((model("m", version="1"),)))(path)
    assert (got.status, got.json["type"]) == (404, "ModelNotFoundError")
    assert path.rsplit("/", maxsplit=1)[-1] in got.json["message"]


@pytest.mark.parametrize(
    ("key", "is_hidden"),
    [
        ("keystore_pass", True),
        ("option.hfToken", True),
        ("option.aws_secret_access_key", True),
        ("option.openai_api_key", True),
        ("option.env", True),
        ("option.tokenizer", False),
        ("option.max_tokens", False),
        ("option.environment", False),
        ("batch_size", False),
    ],
)
def test_settings_that_may_hold_secrets_are_hidden(key: str, is_hidden: bool) -> None:
    got = asking(FakeHost((model("m", settings={key: ("plain-value", "env")}),)))("/models/m")
    assert (b"plain-value" not in got.body) == is_hidden


@pytest.mark.parametrize("path", ["/nothing", "/ping/", "/server", "/server/other", "/models/a/b/c"])
def test_unknown_path_is_404_with_djl_servings_message(path: str) -> None:
    got = asking(FakeHost())(path, method="OPTIONS")
    assert (got.status, got.headers["content-type"]) == (404, "application/json")
    assert got.json == {
        "code": 404,
        "type": "ResourceNotFoundError",
        "message": "Requested resource is not found, please refer to API document.",
    }


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/ping"), ("DELETE", "/models/m"), ("OPTIONS", "/models"), ("GET", "/")]
)
def test_wrong_method_is_405_with_djl_servings_message(method: str, path: str) -> None:
    got = asking(FakeHost())(path, method=method)
    assert got.status == 405
    assert got.json == {
        "code": 405,
        "type": "MethodNotAllowedError",
        "message": "Requested method is not allowed, please refer to API document.",
    }
    assert ("OPTIONS" if path == "/" else "GET") in got.headers["allow"]


def test_every_answer_has_the_common_headers() -> None:
    ask = asking(FakeHost())
    for path in ("/ping", "/models/x", "/nothing", "/server/metrics"):
        got = ask(path, headers={"x-request-id": "my-id"})
        assert got.headers["x-request-id"] == "my-id"
        assert got.headers["pragma"] == "no-cache"
        assert got.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
        assert got.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"


def test_unfit_request_id_is_replaced_and_the_header_can_be_another() -> None:
    ask = asking(FakeHost(), request_id_header="X-Amzn-SageMaker-Inference-Id")
    assert uuid.UUID(ask("/ping", headers={"x-request-id": "ignored"}).headers["x-request-id"])
    headers = {"x-amzn-sagemaker-inference-id": "sm-1"}
    assert ask("/ping", headers=headers).headers["x-request-id"] == "sm-1"


def test_json_is_pretty_and_ends_with_a_newline() -> None:
    got = asking(FakeHost((WELL,)))("/ping")
    assert got.body == b'{\n  "well": {\n    "status": "Healthy"\n  }\n}\n'
    assert got.headers["content-type"] == "application/json"


def test_options_of_the_root_is_the_openapi_document() -> None:
    got = asking(FakeHost())("/", method="OPTIONS")
    assert got.status == 200
    assert got.json["openapi"].startswith("3.1.")
    assert "/predictions/{model}" in got.json["paths"]


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("jobs", "Jobs", ["model"], registry=made).labels("m").inc(3)
    Gauge("depth", "Queue", registry=made).set(5)
    Gauge("other", "Other", registry=made).set(7)
    return made


def test_metrics_are_prometheus_text(registry: CollectorRegistry) -> None:
    got = asking(FakeHost(), registry)("/server/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'jobs_total{model="m"} 3.0\n' in got.body
    assert b"depth 5.0\n" in got.body


@pytest.mark.parametrize("jobs", ["jobs", "jobs_total"])
def test_metrics_can_be_picked_by_name(registry: CollectorRegistry, jobs: str) -> None:
    got = asking(FakeHost(), registry)(f"/server/metrics?name[]={jobs}&name[]=depth")
    assert b"jobs_total" in got.body
    assert b"depth 5.0" in got.body
    assert b"other" not in got.body


def test_metric_of_unknown_name_gives_nothing(registry: CollectorRegistry) -> None:
    got = asking(FakeHost(), registry)("/server/metrics?name[]=absent")
    assert (got.status, got.body) == (200, b"")


class _BrokenHost(FakeHost):
    def models(self) -> tuple[ModelView, ...]:
        raise RuntimeError("the inner secret")


def test_own_fault_is_500_without_internals_and_logged_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    got = asking(_BrokenHost())("/ping", headers={"x-request-id": "id-7"})
    assert (got.status, got.json["code"]) == (500, 500)
    assert b"secret" not in got.body
    assert "id-7" in got.json["message"]
    assert any("id-7" in record.getMessage() and record.exc_info for record in caplog.records)


def test_table_row_without_a_handler_is_refused() -> None:
    row = Endpoint(
        name="teleport",
        path="/t",
        methods=("GET",),
        route_class="control",
        plane="control",
        summary="Teleport",
    )
    with pytest.raises(LookupError, match="teleport"):
        create_app(FakeHost(), CollectorRegistry(), RouteTable([row]))

"""What clients and operators of DJL Serving rely on, with the server as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

PARTS = """
import os
from djl_python import Input, Output

print("model imported")


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    if inputs.contains_key("die"):
        os._exit(3)
    content = inputs.get_content()
    parts = [[key, bytes(content.value_at(i)).decode()] for i, key in enumerate(content.get_keys())]
    seen = {"parts": parts, "tenant": inputs.get_property("tenant"), "pid": os.getpid()}
    return Output().add_as_json(seen).add_property("x-seen", "yes")
"""
BROKEN = "raise ValueError('weights are gone')\n"
SMALL = {"SERVING_MAX_REQUEST_SIZE": "1000"}
TEXT = {"content-type": "text/plain"}


def put(folder: Path, handler: str | None = None, properties: str = "") -> Path:
    """Make a model folder."""
    folder.mkdir(parents=True)
    if handler is not None:
        (folder / "model.py").write_text(handler)
    if properties:
        (folder / "serving.properties").write_text(properties)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve four models."""
    store = tmp_path_factory.mktemp("store")
    put(store / "parts", PARTS)
    put(store / "broken", BROKEN)
    put(store / "slow", properties="engine=echo\njob_queue_size=1\noption.delay_ms=700\n")
    put(store / "hangs", properties="engine=echo\noption.delay_ms=20000\noption.predict_timeout=0.3\n")
    with run_server(store, environ=SMALL) as running:
        yield running


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def parts_of(server: Server, **request: object) -> list[list[str]]:
    answer = httpx.post(f"{server.url}/predictions/parts", **request)
    assert answer.status_code == 200, answer.text
    return answer.json()["parts"]


def test_any_body_is_the_part_data_after_the_query(server: Server) -> None:
    assert parts_of(server, content=b"hi", params={"a": "1"}, headers=TEXT) == [["a", "1"], ["data", "hi"]]


def test_form_fields_become_parts_after_the_query(server: Server) -> None:
    assert parts_of(server, data={"x": "1", "y": "2"}, params={"a": "3"}) == [
        ["a", "3"],
        ["x", "1"],
        ["y", "2"],
    ]
    assert parts_of(server, files={"f": ("f.bin", b"raw")}) == [["f", "raw"]]


def test_properties_of_an_output_become_headers(server: Server) -> None:
    answer = httpx.post(
        f"{server.url}/predictions/parts",
        content=b"",
        headers={"X-Amzn-SageMaker-Custom-Attributes": "tenant=7"},
    )
    assert answer.headers["x-seen"] == "yes"
    assert answer.json()["tenant"] == "7"


def test_too_large_body_is_413(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/parts", content=b"x" * 1001, headers=TEXT)
    assert answer.status_code == 413
    assert answer.json()["type"] == "PayloadTooLargeError"


def test_full_queue_is_503_with_a_time_to_come_back(server: Server) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{server.url}/predictions/slow", content=b"x", headers=TEXT, timeout=30)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["type"] == "CapacityError"
    assert int(refused.headers["retry-after"]) >= 1


def test_model_that_does_not_load_is_failed_with_its_reason_and_stops_no_other(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/broken", content=b"x")
    assert (answer.status_code, answer.json()["type"]) == (503, "ModelNotReadyError")
    ping = httpx.get(f"{server.url}/ping")
    assert ping.status_code == 500
    assert ping.json()["broken"]["status"] == "FAILED"
    assert "weights are gone" in ping.json()["broken"]["reason"]
    assert ping.json()["parts"]["status"] == "Healthy"


def test_request_that_kills_workers_is_503_and_the_model_comes_back(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/parts", params={"die": "1"}, content=b"", timeout=30)
    assert (answer.status_code, answer.json()["type"]) == (503, "WorkerDiedError")
    until(lambda: httpx.post(f"{server.url}/predictions/parts", content=b"x").status_code == 200)


def test_killed_worker_is_replaced(server: Server) -> None:
    url = f"{server.url}/predictions/parts"
    until(lambda: httpx.post(url, content=b"x").status_code == 200)
    first = httpx.post(url, content=b"x").json()["pid"]
    os.kill(first, signal.SIGKILL)
    second = httpx.post(url, content=b"x", timeout=30)
    assert second.status_code == 200
    assert second.json()["pid"] != first


def test_hanging_request_is_answered_after_predict_timeout(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/hangs", content=b"x", headers=TEXT, timeout=30)
    assert (answer.status_code, answer.json()["type"]) == (503, "PredictTimeoutError")
    assert "option.predict_timeout" in answer.json()["message"]


def test_output_of_a_worker_is_in_the_log_under_its_models_name(server: Server) -> None:
    assert server.wait_for_log(r"\[parts/\d+\] model imported")


def test_each_metric_of_a_model_counts_its_requests(server: Server) -> None:
    until(lambda: httpx.post(f"{server.url}/predictions/parts", content=b"x").status_code == 200)
    text = httpx.get(f"{server.url}/server/metrics").text
    for name in ("request", "queue_wait", "inference", "decode", "encode", "model_load"):
        (line,) = [
            row for row in text.splitlines() if row.startswith(f'frame_{name}_seconds_count{{model="parts"')
        ]
        assert float(line.rsplit(" ", 1)[1]) >= 1
    assert 'frame_requests_total{model="parts",outcome="ok",version=""}' in text
    assert 'frame_batch_size_count{model="parts"' in text
    assert 'frame_worker_restarts_total{cause="load_failed",model="broken"' in text


def test_running_request_is_answered_when_the_server_is_told_to_end(tmp_path: Path) -> None:
    put(tmp_path / "slow", properties="engine=echo\noption.delay_ms=1000\n")
    with run_server(tmp_path) as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, f"{running.url}/predictions/slow", content=b"late", headers=TEXT, timeout=30
        )
        url = f"{running.url}/server/metrics"
        until(lambda: 'frame_workers{model="slow",state="busy",version=""} 1.0' in httpx.get(url).text)
        running.send_signal(signal.SIGTERM)
        assert asked.result().text == "late"
        assert running.wait_ended() == 0


def test_only_model_needs_no_name_and_the_newest_version_answers(tmp_path: Path) -> None:
    handler = PARTS.replace('inputs.get_property("tenant")', "os.path.basename(os.getcwd())")
    old, new = put(tmp_path / "nine", handler), put(tmp_path / "ten", handler)
    with run_server(None, ["-m", f"m:1.9={old}", "-m", f"m:1.10={new}"]) as running:
        assert httpx.post(f"{running.url}/invocations", content=b"x").json()["tenant"] == "ten"
        assert httpx.post(f"{running.url}/predictions/m/1.9", content=b"x").json()["tenant"] == "nine"
        versioned = httpx.post(
            f"{running.url}/invocations", params={"model_name": "m", "model_version": "1.9"}
        )
        assert versioned.json()["tenant"] == "nine"


def put_wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel whose module has the attribute VERSION."""
    folder.mkdir()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


NEEDY = """
import os

import click
import msgspec
from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    seen = [os.environ.get(name) for name in ("GREETING", "MY_SECRET")]
    return Output().add_as_json({"click": click.VERSION, "sees": msgspec.__name__, "environ": seen})
"""


@pytest.mark.slow(60)
@pytest.mark.timeout(60)
def test_requirements_win_over_the_servers_packages_and_the_environment_is_the_models(tmp_path: Path) -> None:
    model = put(tmp_path / "store" / "needy", NEEDY, "option.env=GREETING=hi\n")
    (model / "requirements.txt").write_text("click==0.0.1\n")  # the server has another
    put_wheel(model / "requirements", "click", "0.0.1")
    environ = {"DJL_OFFLINE": "true", "DJL_CACHE_DIR": str(tmp_path / "cache"), "MY_SECRET": "x"}
    with run_server(tmp_path / "store", environ=environ) as running:
        answer = httpx.post(f"{running.url}/predictions/needy", content=b"x")
        assert answer.json() == {"click": "0.0.1", "sees": "msgspec", "environ": ["hi", None]}


def run_frame(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `frame` that ends by itself."""
    command = [sys.executable, "-m", "frame", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_flags_of_djl_serving_are_understood(tmp_path: Path) -> None:
    put(tmp_path / "store" / "a", PARTS)
    other = put(tmp_path / "other", PARTS)
    config = tmp_path / "config.properties"
    config.write_text("job_queue_size=7\n")
    done = run_frame("check", "-s", str(tmp_path / "store"), "-f", str(config), "-m", f"b={other}", "--json")
    assert done.returncode == 0, done.stderr
    models = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert set(models) == {"a", "b"}
    assert models["a"]["settings"]["job_queue_size"]["value"] == "7"
    assert "--model-store" in run_frame("serve", "-h").stdout


def test_bad_configuration_ends_the_start_with_1(tmp_path: Path) -> None:
    config = tmp_path / "config.properties"
    config.write_text("job_queue_size=many\n")
    done = run_frame("serve", "-f", str(config))
    assert done.returncode == 1
    assert "config.properties:1" in done.stderr

"""The contract of a SageMaker container, with real processes and folders in place of /opt/ml."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, put_model, until

pytestmark = pytest.mark.slow(120)
SERVE = Path(__file__).parents[2] / "examples" / "docker" / "serve"
ATTRIBUTES = """
from djl_python import Output


def handle(inputs):
    if inputs.is_empty():
        return None
    seen = inputs.get_properties()
    out = Output().add_as_json({"color": seen.get("color"), "shape": seen.get("shape")})
    out.add_property("X-Amzn-SageMaker-Custom-Attributes", "answered=yes")
    return out
"""


@contextmanager
def container(base: Path, **environ: str) -> Iterator[str]:
    """Run `serve` as the platform does and yield the url of its port."""
    log = base / "log"
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": "0",
        **environ,
    }
    with log.open("wb") as output:
        process = subprocess.Popen([SERVE], env=variables, stdout=output, stderr=output)
    try:
        until(lambda: "server_ready" in log.read_text() or process.poll() is not None)
        line = next(line for line in log.read_text().splitlines() if "server_ready" in line)
        yield line.split("address=")[1].split()[0].replace("0.0.0.0", "127.0.0.1")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-2000:]


def test_a_bare_model_answers_invocations_with_custom_attributes(tmp_path: Path) -> None:
    put_model(tmp_path / "model", ATTRIBUTES, minWorkers=1)
    with container(tmp_path) as url:
        assert httpx.get(f"{url}/ping", timeout=DEADLINE).status_code == 200
        headers = {"x-amzn-sagemaker-custom-attributes": "color=red;shape=round"}
        answer = httpx.post(f"{url}/invocations", json=1, headers=headers, timeout=DEADLINE)
        assert (answer.status_code, answer.json()) == (200, {"color": "red", "shape": "round"})
        assert answer.headers["x-amzn-sagemaker-custom-attributes"] == "answered=yes"
        for path in ("/models", "/server/metrics"):  # the port is the endpoint's
            assert httpx.get(f"{url}{path}", timeout=DEADLINE).status_code == 404


def test_a_folder_of_models_and_an_archive_are_served_by_name(tmp_path: Path) -> None:
    put_model(tmp_path / "model" / "one", WILLING, minWorkers=1)
    made = put_model(tmp_path / "made", WILLING, minWorkers=1)
    with tarfile.open(tmp_path / "model" / "two.tar.gz", "w:gz") as archive:
        archive.add(made, arcname=".")
    with container(tmp_path, SERVING_CACHE_DIR=str(tmp_path / "cache")) as url:
        for name in ("one", "two"):
            query = {"model_name": name}
            answer = httpx.post(f"{url}/invocations", params=query, json={"token": name}, timeout=DEADLINE)
            assert (answer.status_code, answer.json()["token"]) == (200, name)


def test_variables_of_the_platform_are_settings(tmp_path: Path) -> None:
    put_model(tmp_path / "model", WILLING)
    environ = {
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1", "SAGEMAKER_NUM_MODEL_WORKERS": "2",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "1", "SAGEMAKER_STARTUP_TIMEOUT": "33",
        "SERVING_OBSERVE_ADDRESS": "http://127.0.0.1:0",
    }  # fmt: skip
    with container(tmp_path, **environ) as url:
        large = httpx.post(f"{url}/invocations", content=b"x" * (1 << 20) + b"x", timeout=DEADLINE)
        assert large.status_code == 413
        slow = httpx.post(f"{url}/invocations", json={"token": "x", "sleep": 9}, timeout=DEADLINE)
        assert slow.status_code == 503
        assert httpx.get(f"{url}/ping", timeout=DEADLINE).status_code == 200
        log = (tmp_path / "log").read_text()
        observe = next(line for line in log.splitlines() if "address=http://127.0.0.1" in line)
        observe = observe.split("address=")[1].split()[0]
        (found,) = httpx.get(f"{observe}/models/model", timeout=DEADLINE).json()[0]["models"]
        assert [found["workerGroups"][0][name] for name in ("minWorkers", "maxWorkers")] == [2, 2]
        loading = found["settings"]["option.model_loading_timeout"]
        assert (loading["value"], loading["source"]) == ("33", "SAGEMAKER_STARTUP_TIMEOUT")


# --- multi-model endpoints ---------------------------------------------------------------------------


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """Run a multi-model endpoint with one model on its disk, not loaded."""
    put_model(tmp_path / "models" / "0a1b" / "model", WILLING, minWorkers=1)
    put_model(tmp_path / "outside", WILLING, minWorkers=1)
    with container(tmp_path, SAGEMAKER_MULTI_MODEL="true", FRAME_MANAGEMENT_TOKEN="x" * 20) as url:
        yield url


def load(url: str, path: Path, name: str = "m", **more: str) -> httpx.Response:
    """Load a model as the platform does."""
    body = {"model_name": name, "url": str(path), **more}
    return httpx.post(f"{url}/models", json=body, timeout=2 * DEADLINE)


def test_models_are_loaded_invoked_listed_and_unloaded_without_a_token(endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "models" / "0a1b" / "model"
    assert httpx.get(f"{endpoint}/ping", timeout=DEADLINE).json() == {}
    invoke = f"{endpoint}/models/m/invoke"
    assert httpx.post(invoke, json={"token": "x"}, timeout=DEADLINE).status_code == 404
    assert load(endpoint, path).status_code == 200
    assert load(endpoint, path).status_code == 409
    headers = {"x-amzn-sagemaker-target-model": "m.tar.gz"}
    answer = httpx.post(invoke, json={"token": "x"}, headers=headers, timeout=DEADLINE)
    assert (answer.status_code, answer.json()["token"]) == (200, "x")
    assert httpx.post(f"{invoke}?a=1", json={"token": "x"}, timeout=DEADLINE).status_code == 200
    listed = httpx.get(f"{endpoint}/models", timeout=DEADLINE).json()["models"]
    assert [(item["modelName"], item["modelUrl"]) for item in listed] == [("m", str(path))]
    (found,) = httpx.get(f"{endpoint}/models/m", timeout=DEADLINE).json()
    assert found["models"][0]["modelUrl"] == str(path)
    assert httpx.delete(f"{endpoint}/models/m", timeout=2 * DEADLINE).status_code == 200
    assert httpx.delete(f"{endpoint}/models/m", timeout=DEADLINE).status_code == 404
    assert httpx.get(f"{endpoint}/models/m", timeout=DEADLINE).status_code == 404
    assert httpx.post(invoke, json={"token": "x"}, timeout=DEADLINE).status_code == 404


def test_only_real_paths_below_the_models_folder_may_be_loaded_and_nothing_set(
    endpoint: str, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    (models / "link").symlink_to(tmp_path / "outside")
    smuggled = "model%3Foption.pythonExecutable=%252Ftmp%252Fevil&option.model_id=x"
    for wrong in (
        tmp_path / "outside", models / "link", models / ".." / "outside", models, "/etc", "m.zip",
        "https://models.example/m.zip", "s3://bucket/m", f"x:1={models}/0a1b/model",
        f"{models}/0a1b/model?engine=python", f"file://{models}/0a1b/{smuggled}", f"{models}/0a1b/{smuggled}",
        f"{models}/0a1b/a=b", f"{models}/0a1b/a#b",
    ):  # fmt: skip
        answer = load(endpoint, Path(wrong) if isinstance(wrong, Path) else wrong)  # type: ignore[arg-type]
        assert answer.status_code == 400, (wrong, answer.text)
    for more in (
        {"engine": "python"},
        {"model_version": "1"},
        {"option.entryPoint": "x.py"},
        {"min_worker": "1"},
    ):
        answer = load(endpoint, models / "0a1b" / "model", **more)
        assert answer.status_code == 400, more
    (models / "flow").mkdir()
    (models / "flow" / "workflow.json").write_text(
        '{"models": {"m": "/etc"}, "workflow": {"out": ["m", "in"]}}'
    )
    answer = load(endpoint, models / "flow")
    assert answer.status_code == 400
    assert "with multi_model no workflows are registered" in answer.text
    assert httpx.get(f"{endpoint}/models", timeout=DEADLINE).json()["models"] == []
    for method, path in (("PUT", "/models/m"), ("PATCH", "/models/m"), ("PUT", "/models/m/traffic")):
        assert httpx.request(method, f"{endpoint}{path}", timeout=DEADLINE).status_code in {401, 404, 405}
    assert httpx.get(f"{endpoint}/server/metrics", timeout=DEADLINE).status_code in {401, 404}


def test_a_model_for_which_memory_is_short_is_507(endpoint: str, tmp_path: Path) -> None:
    folder = put_model(tmp_path / "models" / "big" / "model", WILLING, minWorkers=1)
    with (folder / "weights.bin").open("wb") as weights:
        weights.truncate(1 << 42)  # a file with nothing in it, said to have 4 TiB
    answer = load(endpoint, folder, "big")
    assert (answer.status_code, answer.json()["type"]) == (507, "OutOfMemoryError")
    assert httpx.get(f"{endpoint}/models/big", timeout=DEADLINE).status_code == 404
    assert load(endpoint, tmp_path / "models" / "0a1b" / "model").status_code == 200

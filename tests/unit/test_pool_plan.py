"""What a worker may know of the server, the order of versions, and what a plan makes of a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from frame.pool.environ import ALLOWED_NAMES, ALLOWED_PREFIXES, is_allowed, worker_environment
from frame.pool.environments import EnvironmentRequest, _key
from frame.pool.versions import version_order
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_plans import plan

# --- environment variables ------------------------------------------------------------------------

SECRETS = (
    "HF_TOKEN",
    "OPTION_HF_TOKEN",
    "OPTION_TOKEN_FILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "TF_SECRET",
    "CUDA_PASSWORD",
    "option_api_key",
    "OPTION_API_KEY",
    "NVIDIA_API_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KAGGLE_KEY",
    "PGPASSWORD",
    "SERVING_KEYSTORE_PASS",
    "FRAME_GROUP_TOKEN",
    "LD_PRELOAD",
    "PYTHONPATH",
    "PYTHONSTARTUP",
)


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_and_the_servers_own_python_never_reach_a_worker(name):
    assert not is_allowed(name)
    assert name not in worker_environment({name: "x"}, bundle="", extra={}, threads=1) or name == "PYTHONPATH"


@pytest.mark.parametrize(
    "name", ["HOME", "LC_ALL", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "OPTION_DTYPE"]
)
def test_what_frameworks_need_passes(name):
    assert worker_environment({name: "x"}, bundle="", extra={}, threads=1)[name] == "x"


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=20))
def test_a_variable_that_nobody_listed_does_not_pass(name):
    is_listed = name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES)
    assert is_listed or not is_allowed(name)


def test_the_models_own_variables_win_and_its_path_comes_after_the_bundle():
    extra = {"PYTHONPATH": "/model/lib", "TZ": "UTC", "HF_TOKEN": "given on purpose"}
    found = worker_environment(
        {"TZ": "CET", "PYTHONPATH": "/server"}, bundle="/bundle", extra=extra, threads=1
    )
    assert found["PYTHONPATH"] == "/bundle:/model/lib"
    assert found["TZ"] == "UTC"
    assert found["HF_TOKEN"] == "given on purpose"


def test_the_bundle_is_the_whole_path_of_a_model_without_its_own():
    assert worker_environment({}, bundle="/bundle", extra={}, threads=1)["PYTHONPATH"] == "/bundle"


@pytest.mark.parametrize(("environ", "threads"), [({}, "3"), ({"OMP_NUM_THREADS": "8"}, "8")])
def test_threads_are_limited_unless_the_operator_said_how_many(environ, threads):
    assert worker_environment(environ, bundle="", extra={}, threads=3)["OMP_NUM_THREADS"] == threads


# --- environments of models -----------------------------------------------------------------------


@pytest.fixture
def request_for(tmp_path: Path) -> EnvironmentRequest:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements.txt").write_text("numpy==1.26\n")
    return EnvironmentRequest(
        model="m", folder=tmp_path, interpreter="/usr/bin/python3", cache=tmp_path, timeout=1.0, environ={}
    )


def test_models_with_the_same_requirements_share_an_environment(request_for):
    other = replace(request_for, model="other", timeout=9.0, environ={"HOME": "/x"})
    assert _key(other) == _key(request_for)


def test_what_an_environment_is_made_of_makes_it_another(request_for):
    keys = {_key(request_for), _key(replace(request_for, interpreter="/usr/bin/python3.12"))}
    (request_for.folder / "requirements.txt").write_text("numpy==2.0\n")
    keys.add(_key(request_for))
    (request_for.folder / "requirements" / "own.whl").write_bytes(b"wheel")
    keys.add(_key(request_for))
    (request_for.folder / "requirements" / "own.whl").write_bytes(b"another wheel")
    keys.add(_key(request_for))
    (request_for.folder / "requirements.txt").unlink()
    keys.add(_key(request_for))
    assert len(keys) == 6


# --- versions -------------------------------------------------------------------------------------


def test_versions_are_ordered_by_their_numbers():
    ordered = [None, "dev", "1", "1.2", "1.9", "v1.10", "2", "10"]
    found = ordered[::-1]
    found.sort(key=version_order)
    assert found == ordered


@given(st.lists(st.none() | st.text(max_size=6), max_size=6))
def test_any_versions_can_be_ordered_however_they_came(versions):
    keys = [version_order(version) for version in versions]
    found = keys[::-1]
    found.sort()
    assert found == sorted(keys)


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_has_the_settings_in_seconds():
    made = plan(
        "batch_size=4\nmax_batch_delay=250\njob_queue_size=7\nretry_threshold=2\n"
        "option.predict_timeout=3\noption.model_loading_timeout=5\noption.drain_time=1.5"
    )
    assert (made.batching.batch_size, made.batching.max_delay) == (4, 0.25)
    assert (made.queue_size, made.restarts.retry_threshold) == (7, 2)
    group = made.group
    assert (group.batch_size, group.predict_timeout, group.load_timeout, group.drain_timeout) == (
        4,
        3,
        5,
        1.5,
    )


def test_workers_of_the_devices_type_count():
    text = "minWorkers=1\nmaxWorkers=9\ngpu.minWorkers=2\ngpu.maxWorkers=3"
    on_gpus = plan(text, devices=(("gpu0",), ("gpu1",)))
    assert [(place.minimum, place.maximum) for place in on_gpus.places] == [(2, 3), (2, 3)]
    on_cpu = plan(text)
    assert (on_cpu.min_workers, on_cpu.max_workers) == (1, 9)


@pytest.mark.parametrize(
    ("environ", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "4"}, 4), ({"OMP_NUM_THREADS": "many"}, 1)]
)
def test_threads_and_the_default_of_workers_follow_the_environment(environ, threads):
    made = plan(environ=environ, cores=8)
    assert made.group.threads == threads
    assert made.max_workers == 8 // threads


def test_a_log_of_times_is_kept_only_when_asked_for():
    assert plan("log_request_metric=true\nmetrics_aggregation=50").log_every == 50
    assert plan("metrics_aggregation=50").log_every == 0

"""The report of `frame check`."""

from __future__ import annotations

import json

import pytest
from frame.api import EngineSpec
from frame.cli.check import check_exit_code, render_check
from frame.config.files import load_server_config
from frame.store.catalog import Catalog, build_catalog

ENGINE = EngineSpec(name="onnx", api=(1, 1), target="x:X", claims=("*.onnx",))


@pytest.fixture
def check(tmp_path):
    def run(properties="", *, as_json=False, cores=4, flags=None):
        for name, text in (("mlp", properties), ("plain", "")):
            folder = tmp_path / "store" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.onnx").write_text("")
            (folder / "serving.properties").write_text(text)
        config = load_server_config(None, {"model_store": str(tmp_path / "store"), **(flags or {})}, {})
        catalog = build_catalog(config, (), [ENGINE], {}, lenient=False)
        return catalog, render_check(catalog, config, as_json=as_json, cores=cores)

    return run


def test_served_model_shows_engine_reason_workers_and_changed_settings(check, tmp_path):
    catalog, text = check("\nbatch_size=8\noption.rolling_batch=auto\nload_on_devices=cpu\n")
    assert check_exit_code(catalog) == 0
    assert text.splitlines()[3:9] == [
        "mlp  onnx (found model.onnx)",
        f"  from     {tmp_path / 'store' / 'mlp'}",
        "  workers  1-4 on cpu",
        "  batch_size=8               serving.properties:2",
        "  option.rolling_batch=auto  serving.properties:3",
        "  load_on_devices=cpu        serving.properties:4",
    ]
    assert "  warning: option.rolling_batch (serving.properties:3): has no meaning" in text
    assert text.endswith("2 of 2 models would be served")


def test_model_for_all_devices_shows_both_numbers_of_workers(check):
    assert "  workers  1-4; where there are GPUs 2-2 on each" in check("gpu.minWorkers=2")[1]


def test_server_settings_show_their_flags(check):
    text = check(flags={"port": "0"})[1]
    assert text.startswith("server at http://127.0.0.1:0 (hypercorn)\n  model_store=")


def test_refused_model_shows_its_problems_and_the_exit_code_says_so(check):
    catalog, text = check("batch_size=x")
    assert check_exit_code(catalog) == 1
    assert "mlp  REFUSED" in text
    assert "  problem: batch_size (serving.properties:1): 'x' is not a whole number >= 1" in text
    assert text.endswith("1 of 2 models would be served")


def test_problems_of_the_list_count_as_well():
    assert check_exit_code(Catalog(entries=(), problems=("x",))) == 1
    assert check_exit_code(Catalog(entries=())) == 0


def test_json_has_every_setting_with_its_source(check):
    _, text = check("batch_size=8", as_json=True)
    report = json.loads(text)
    mlp, plain = report["models"]
    assert mlp["settings"]["batch_size"] == {"value": "8", "source": "file", "where": "serving.properties:1"}
    assert plain["settings"]["batch_size"] == {"value": "1", "source": "default", "where": ""}
    assert mlp["workers"] == {"cpu": {"min": 1, "max": 4}, "gpu": {"min": 1, "max": 1}}
    assert report["server"]["http_server"]["value"] == "hypercorn"
    assert (mlp["engine"], mlp["reason"], mlp["problems"]) == ("onnx", "found model.onnx", [])


def test_json_of_a_refused_model_has_its_problems(check):
    report = json.loads(check("batch_size=x", as_json=True)[1])
    assert report["models"][0]["problems"] == [
        "batch_size (serving.properties:1): 'x' is not a whole number >= 1"
    ]
    assert report["models"][0]["engine"] is None


def test_cores_come_from_the_system_when_not_given(check):
    assert "  workers  1-" in check(cores=None)[1]

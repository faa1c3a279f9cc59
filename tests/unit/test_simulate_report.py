"""The report, the plot and the command of the simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from frame.cli.main import main
from frame.errors import PluginError
from frame.simulate.plot import draw
from frame.simulate.trace import poisson_trace

from tests.unit.simulate_rig import run, settings

LOAD = ["--poisson", "100", "--seconds", "5"]


def command(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["simulate", *arguments]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_the_report_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(
        capsys, *LOAD, "--service", "30+1", "--batch-size", "8", "--min-workers", "1", "--max-workers", "3",
        "--kill-at", "2.5", "--target-ms", "100",
    )  # fmt: skip
    parts = ("p50", "p99", "answers/s", "worker-seconds", "worker deaths  1", "workers up", "Cheapest")
    for part in parts:
        assert part in text


def test_json_has_what_the_text_has(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(command(capsys, *LOAD, "--service", "30", "--workers", "4", "--json"))
    assert data["answered"] == data["trace"]["requests"]
    assert data["refused"] == {}
    assert 0.03 <= data["latency_seconds"]["p50"] <= data["latency_seconds"]["max"]
    assert data["workers"][-1][1] == 4
    assert data["worker_seconds"] == pytest.approx(4 * data["seconds"])
    assert sum(int(size) * count for size, count in data["batch_sizes"].items()) == data["answered"]
    assert data["simulated_requests_per_second"] > 0


def test_refusals_have_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, *LOAD, "--service", "100", "--workers", "1", "--job-queue-size", "5")
    assert "queue full" in text


def test_a_target_that_nothing_meets_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, *LOAD, "--service", "30", "--max-workers", "8", "--target-ms", "20")
    assert "Nothing that was tried answers 99% of the requests within 20.0 ms" in text


def test_settings_come_from_the_model_and_flags_go_before_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "serving.properties").write_text("engine=echo\nbatch_size=4\nminWorkers=2\nmaxWorkers=2\n")
    data = json.loads(command(capsys, str(model), *LOAD, "--service", "30", "--batch-size", "6", "--json"))
    assert data["settings"]["batching"]["batch_size"] == 6
    assert data["settings"]["places"] == [{"minimum": 2, "maximum": 2, "slots_per_group": 2}]


def test_a_model_that_is_wrong_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "serving.properties").write_text("engine=echo\nbatch_sise=4\n")
    assert "did you mean batch_size" in command(capsys, str(model), *LOAD, "--service", "30", code=1)
    assert "no such file" in command(capsys, str(tmp_path / "n"), *LOAD, "--service", "30", code=1)


def test_a_flag_that_is_wrong_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, *LOAD, "--service", "30", "--batching", "adaptive", code=1)
    assert "adaptive needs latency_target_ms" in text


@pytest.mark.parametrize("load", [[], [*LOAD, "--burst", "1,2,3,4"]])
def test_one_load_is_wanted(load: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "give one load" in command(capsys, *load, "--service", "30", code=1)


def test_a_load_without_requests_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, "--poisson", "0.001", "--seconds", "1", "--service", "30", code=1)
    assert "the load has no requests" in text


def test_a_file_is_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "load.csv"
    path.write_text("arrived_seconds\n0\n1\n2\n")
    assert "3 in 3 s (load.csv)" in command(capsys, "--trace", str(path), "--service", "30")


def test_a_profile_is_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.json"
    batches = [{"size": 1, "seconds": [0.03]}]
    path.write_text(
        json.dumps({"model": "m", "load_seconds": 1, "overhead_seconds": [0.002], "batches": batches})
    )
    assert "p50 32.0 ms" in command(
        capsys, "--burst", "2,4,1,1", "--seconds", "5", "--service", str(path), "--workers", "4"
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_drawn(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"plot.{suffix}"
    flags = ["--kill-every", "2", "--target-ms", "50", "--max-workers", "2", "--plot", str(path)]
    command(capsys, *LOAD, "--service", "5", *flags)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])


def test_a_run_without_an_answer_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "serving.properties").write_text("engine=echo\nrequest_timeout=0.001\n")
    flags = ["--service", "5", "--plot", str(tmp_path / "plot.png")]
    text = command(capsys, str(model), "--poisson", "20", "--seconds", "2", *flags)
    assert "p50 -" in text
    assert "no answer in time" in text
    assert (tmp_path / "plot.png").exists()


def test_long_tables_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--service", "10+5", "--batch-size", "64", "--workers", "1", "--max-batch-delay-ms", "0"]
    assert " more" in command(capsys, "--poisson", "190", *flags, "--seconds", "20")


def test_a_plot_in_no_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, *LOAD, "--service", "5", "--plot", str(tmp_path / "plot.doc"), code=1)
    assert "--plot" in text


def test_a_plot_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    load = poisson_trace(10, 1, seed=1)
    with pytest.raises(PluginError, match=r"frame-core\[plot\]"):
        draw(run(settings(), load), load, tmp_path / "plot.png")


def test_adaptive_batching_shows_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--service", "10+1", "--workers", "1", "--batching", "adaptive", "--latency-target-ms", "80"]
    data = json.loads(command(capsys, "--poisson", "150", "--seconds", "5", *flags, "--json"))
    assert data["choices"]
    assert data["mean_batch_size"] > 1
    assert "why (batching=adaptive)" in command(capsys, "--poisson", "150", "--seconds", "5", *flags)

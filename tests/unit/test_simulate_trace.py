"""Loads for the simulator, read or made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame.errors import ConfigError
from frame.simulate.trace import (
    Arrival,
    Burst,
    burst_trace,
    kill_times,
    parse_burst,
    poisson_trace,
    read_trace,
)
from frame.wire.hints import BatchHint


def test_a_poisson_load_has_its_rate_and_is_the_same_for_a_seed() -> None:
    trace = poisson_trace(100, 60, seed=1)
    assert trace.rate == pytest.approx(100, rel=0.05)
    assert trace == poisson_trace(100, 60, seed=1)
    assert trace.arrivals != poisson_trace(100, 60, seed=2).arrivals


def test_a_burst_has_its_rates_in_turn() -> None:
    trace = burst_trace(Burst(rate=20, peak=200, on=2, off=3), 50, seed=1)
    quiet = [item for item in trace.arrivals if item.at % 5 < 3]
    assert len(quiet) == pytest.approx(20 * 30, rel=0.2)
    assert len(trace.arrivals) - len(quiet) == pytest.approx(200 * 20, rel=0.05)
    assert [item.at for item in trace.arrivals] == sorted(item.at for item in trace.arrivals)


def test_a_burst_may_have_nothing_between_peaks_and_ends_with_the_load() -> None:
    trace = burst_trace(parse_burst("0,100,1,1"), 1.5, seed=1)
    assert trace.arrivals
    assert all(1 <= item.at < 1.5 for item in trace.arrivals)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,2,3,4"])
def test_a_burst_is_four_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="RATE,PEAK,ON,OFF"):
        parse_burst(text)


@pytest.mark.parametrize("text", ["-1,2,3,4", "1,0,3,4", "1,2,0,4", "1,2,3,-4"])
def test_a_burst_without_a_load_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        parse_burst(text)


def test_kills_are_in_order_and_within_the_load() -> None:
    assert kill_times(2.0, (1.5, 9.0), 6.0) == (1.5, 2.0, 4.0)
    assert kill_times(None, (), 6.0) == ()


def test_a_file_has_requests_in_any_order_with_hints(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("arrived_seconds,cost,key,priority\n12.5,,,\n10.0,7,b,1\n")
    trace = read_trace(path)
    assert trace.arrivals == (Arrival(0.0, BatchHint(b"b", 7), 1), Arrival(2.5))
    assert trace.seconds == 5.0  # two requests in two gaps
    assert trace.name == "load.csv"


def test_a_file_of_one_moment_is_a_load(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("arrived_seconds\n3\n3\n")
    assert read_trace(path).seconds == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line names the columns"),
        ("cost\n1\n", "first line names the columns"),
        ("arrived_seconds,colour\n1,red\n", "first line names the columns"),
        ("arrived_seconds\n", "no requests"),
        ("arrived_seconds\n1\nsoon\n", "load.csv:3: "),
        ("arrived_seconds,cost\n1,x\n", "load.csv:2: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "load.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_trace(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")

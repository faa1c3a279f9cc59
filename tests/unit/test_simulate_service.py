"""How long a simulated batch takes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from frame.errors import ConfigError
from frame.simulate.service import Profile, ServiceModel, SizeTimes, read_profile, service_line

PROFILE = Profile(
    model="m",
    batches=(SizeTimes(1, (0.010, 0.012, 0.020)), SizeTimes(4, (0.018,)), SizeTimes(8, (0.030,))),
    overhead=(0.001, 0.002, 0.009),
    load_seconds=2.5,
)


def test_a_line_has_a_base_and_a_part_for_each_request() -> None:
    service = service_line("20+1.5", overhead=0.002, load_seconds=3)
    assert [service.typical(size) for size in (1, 2, 10)] == pytest.approx([0.0215, 0.023, 0.035])
    assert (service.overhead, service.load_seconds) == (0.002, 3)
    assert service.draw(10, Random(1)) == service.typical(10)


def test_a_line_may_be_flat() -> None:
    assert service_line("20").typical(50) == pytest.approx(0.02)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1+", "1+2+3"])
def test_another_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"BASE\+PER_ITEM"):
        service_line(text)


def test_between_measured_sizes_times_are_on_a_line_and_go_on_beyond() -> None:
    service = PROFILE.service_model()
    assert [service.typical(size) for size in (1, 4, 8)] == pytest.approx([0.012, 0.018, 0.030])
    assert service.typical(2) == pytest.approx(0.014)
    assert service.typical(6) == pytest.approx(0.024)
    assert service.typical(12) == pytest.approx(0.042)
    assert service.largest == 8


def test_below_the_smallest_measured_size_a_batch_takes_no_less() -> None:
    service = ServiceModel([SizeTimes(4, (0.02,)), SizeTimes(8, (0.03,))])
    assert service.typical(1) == 0.02


def test_larger_batches_never_take_less_than_the_line_before() -> None:
    service = ServiceModel([SizeTimes(1, (0.02,)), SizeTimes(2, (0.01,))])
    assert service.typical(64) >= 0.01


def test_one_size_alone_says_nothing_of_others() -> None:
    assert ServiceModel([SizeTimes(1, (0.02,))]).typical(9) == 0.02


def test_times_vary_as_they_did() -> None:
    service, random = PROFILE.service_model(), Random(1)
    drawn = {round(service.draw(1, random), 6) for _ in range(100)}
    assert drawn == {0.010, 0.012, 0.020}
    assert {round(service.draw(8, random), 6) for _ in range(9)} == {0.030}


def test_times_of_nothing_are_nothing() -> None:
    service = ServiceModel([SizeTimes(1, (0.0, 0.0))])
    assert service.draw(1, Random(1)) == 0.0


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(PROFILE.to_json()))
    assert Profile.from_json(json.loads(path.read_text())) == PROFILE
    service = read_profile(path)
    assert (service.overhead, service.load_seconds) == (0.002, 2.5)


def test_a_profile_without_overhead_has_the_usual(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(PROFILE.to_json() | {"overhead_seconds": []}))
    assert read_profile(path).overhead == 0.001


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "m", "batches": []}'])
def test_another_file_is_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not made by frame profile"):
        read_profile(path)


def test_a_profile_without_batches_is_none(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(PROFILE.to_json() | {"batches": []}))
    with pytest.raises(ConfigError, match="no batches in it"):
        read_profile(path)


def test_a_missing_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "none.json")

"""Which GPUs there are, which a group gets, and what its worker sees of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame.errors import ConfigError
from frame.pool.devices import cut_visible, place, visible_gpus


@pytest.fixture
def devices(tmp_path: Path):
    """Make a device folder with GPU files of these numbers."""

    def make(*numbers: int) -> Path:
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-caps", "null", *(f"nvidia{n}" for n in numbers)):
            (tmp_path / name).touch()
        return tmp_path

    return make


def test_gpus_are_counted_from_0_whatever_their_files_are_called(devices):
    assert visible_gpus({}, devices(3, 5)) == ["0", "1"]


def test_more_than_ten_gpus_keep_their_order(devices):
    assert visible_gpus({}, devices(*range(12))) == [str(index) for index in range(12)]


def test_without_gpu_files_there_are_none_whatever_the_variable_says(devices):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, devices()) == []


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        ("2, 0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),
        ("0,9,1", ["0"]),
        ("GPU-8932f937,MIG-4d2a", ["GPU-8932f937", "MIG-4d2a"]),
        ("none", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(devices, chosen, seen):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": chosen}, devices(0, 1, 2)) == seen


@pytest.mark.parametrize(
    ("wanted", "sets"),
    [
        (["*"], (("gpu0",), ("gpu1",))),
        (["gpu1"], (("gpu1",),)),
        (["gpu0+gpu1"], (("gpu0", "gpu1"),)),
        (["cpu"], (("cpu",),)),
        (["gpu0", "*", "gpu0"], (("gpu0",), ("gpu1",))),
    ],
)
def test_groups_are_placed_where_they_are_wanted_once_each(devices, wanted, sets):
    assert place(wanted, {}, devices(0, 1)) == sets


def test_every_device_is_the_cpu_where_there_is_no_gpu(devices):
    assert place(["*"], {}, devices()) == (("cpu",),)


@pytest.mark.parametrize("wanted", ["gpu2", "gpu0+gpu2"])
def test_a_gpu_that_is_not_there_is_refused_by_name(devices, wanted):
    with pytest.raises(ConfigError, match="gpu2 is not there; this machine has 2 GPUs"):
        place([wanted], {}, devices(0, 1))


@pytest.mark.parametrize(
    ("group", "environ", "named", "visible"),
    [
        (("gpu1",), {}, ("gpu0",), "1"),
        (("gpu2", "gpu0"), {}, ("gpu0", "gpu1"), "2,0"),
        (("gpu0",), {"CUDA_VISIBLE_DEVICES": "2"}, ("gpu0",), "2"),
        (("gpu1",), {"CUDA_VISIBLE_DEVICES": "GPU-a,MIG-b"}, ("gpu0",), "MIG-b"),
        (("cpu",), {}, ("cpu",), ""),
    ],
)
def test_a_worker_sees_its_own_devices_only(devices, group, environ, named, visible):
    assert cut_visible(group, environ, devices(0, 1, 2)) == (named, visible)


def test_a_worker_without_gpus_around_needs_no_variable(devices):
    assert cut_visible(("cpu",), {}, devices()) == (("cpu",), None)

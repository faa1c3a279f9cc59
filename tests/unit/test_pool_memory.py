"""Free memory and usable cores: the machine's, the control group's, the GPUs'."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from frame.policy.placement import Memory
from frame.pool.cgroups import usable_cores
from frame.pool.memory import parse_gpus, read_cpu_memory, read_memory

MB = 1 << 20
V1 = "9:name=systemd:/\n4:memory:/pods/a\n3:cpu,cpuacct:/pods/a\n"
V2 = "0::/pods/a\n"


class Machine:
    """Files of /proc and /sys/fs/cgroup under a temporary folder."""

    def __init__(self, folder: Path, groups: str, *, available_mb: int = 8000) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.write(
            self.proc / "meminfo", f"MemTotal: {16000 * 1024} kB\nMemAvailable: {available_mb * 1024} kB\n"
        )
        self.write(self.proc / "self/cgroup", groups)

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))

    def memory(self) -> Memory:
        return read_cpu_memory(self.proc, self.cgroups)

    def cores(self) -> int:
        return usable_cores(self.proc, self.cgroups)


def test_without_a_limit_the_machines_available_memory_is_free(tmp_path):
    machine = Machine(tmp_path, V2)
    machine.write(machine.cgroups / "pods/a/memory.max", "max\n")
    assert machine.memory() == Memory(8000, 16000)


def test_without_control_groups_the_machine_counts(tmp_path):
    machine = Machine(tmp_path, V2)
    (machine.proc / "self/cgroup").unlink()
    assert machine.memory() == Memory(8000, 16000)
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_a_limit_of_version_2_counts_without_page_cache_that_is_not_in_use(tmp_path):
    machine = Machine(tmp_path, V2)
    group = machine.cgroups / "pods/a"
    machine.write(group / "memory.max", 4000 * MB)
    machine.write(group / "memory.current", 3000 * MB)
    machine.write(group / "memory.stat", f"anon {1 * MB}\ninactive_file {500 * MB}\n")
    assert machine.memory() == Memory(1500, 4000)


def test_a_limit_of_version_1_counts(tmp_path):
    machine = Machine(tmp_path, V1)
    group = machine.cgroups / "memory/pods/a"
    machine.write(group / "memory.limit_in_bytes", 2000 * MB)
    machine.write(group / "memory.usage_in_bytes", 1500 * MB)
    machine.write(group / "memory.stat", f"total_inactive_file {100 * MB}\n")
    assert machine.memory() == Memory(600, 2000)


def test_the_narrowest_of_the_groups_above_counts(tmp_path):
    machine = Machine(tmp_path, V2)
    for folder, limit in (("pods/a", 3000), ("pods", 1000), ("", 5000)):
        machine.write(machine.cgroups / folder / "memory.max", limit * MB)
        machine.write(machine.cgroups / folder / "memory.current", 200 * MB)
    assert machine.memory() == Memory(800, 1000)


def test_in_a_container_the_mounted_root_counts(tmp_path):
    machine = Machine(tmp_path, "0::/../../hosts/path\n")
    machine.write(machine.cgroups / "memory.max", 1000 * MB)
    machine.write(machine.cgroups / "memory.current", 400 * MB)
    assert machine.memory() == Memory(600, 1000)


def test_the_machine_counts_when_it_has_less_than_the_limit(tmp_path):
    machine = Machine(tmp_path, V2, available_mb=300)
    machine.write(machine.cgroups / "pods/a/memory.max", 1000 * MB)
    machine.write(machine.cgroups / "pods/a/memory.current", 0)
    assert machine.memory() == Memory(300, 1000)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)]
)
def test_a_quota_of_version_2_limits_the_cores(tmp_path, quota, cores):
    machine = Machine(tmp_path, V2)
    machine.write(machine.cgroups / "pods/a/cpu.max", quota)
    assert machine.cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("100000", 1)])
def test_a_quota_of_version_1_limits_the_cores(tmp_path, quota, cores):
    machine = Machine(tmp_path, V1)
    group = machine.cgroups / "cpu,cpuacct/pods/a"
    machine.write(group / "cpu.cfs_quota_us", quota)
    machine.write(group / "cpu.cfs_period_us", "100000")
    assert machine.cores() == (cores or len(os.sched_getaffinity(0)))


def test_gpus_are_known_by_index_and_uuid_and_what_cannot_be_read_is_unknown():
    found = parse_gpus("0, GPU-aa, 1000, 2000\n1, GPU-bb, [N/A], 2000\nno devices\n")
    assert found["0"] == found["GPU-aa"] == Memory(1000, 2000)
    assert found["1"] == Memory(None, 2000)
    assert len(found) == 4


def test_memory_of_a_gpu_that_is_not_there_is_unknown():
    found = asyncio.run(read_memory(("cpu", "gpu0"), ("0",)))
    assert found["gpu0"] == Memory(None, None)
    assert (found["cpu"].free_mb or 0) > 0

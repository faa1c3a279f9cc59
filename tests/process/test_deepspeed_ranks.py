"""Two ranks check the model that they hold together: all of them come to rank 0's verdict, and end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import hf_models

RANKS = 2
SCRIPT = Path(__file__).parent / "deepspeed_rank.py"
pytestmark = pytest.mark.slow(240)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_ranks(command: list[str], cache: Path, port: int) -> list[dict[str, Any]]:
    """Run a script as the ranks of one group; return what each of them found."""
    shared = {
        "WORLD_SIZE": RANKS, "LOCAL_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1, "XDG_CACHE_HOME": cache,
    }  # fmt: skip
    ranks = []
    for rank in range(RANKS):
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        python = [sys.executable, *command]
        ranks.append(subprocess.Popen(python, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True))
    try:
        said = [rank.communicate(timeout=200)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * RANKS
    lines = [next(line for line in text.splitlines() if line.startswith("FOUND ")) for text in said]
    return [json.loads(line.removeprefix("FOUND ")) for line in lines]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what both ranks found."""
    gptj = hf_models.make_gptj(tmp_path_factory.mktemp("gptj"), n_layer=4)
    bloom = hf_models.make_bloom(tmp_path_factory.mktemp("bloom"))
    return run_ranks([str(SCRIPT), str(gptj), str(bloom)], tmp_path_factory.mktemp("cache"), free_port())


def test_ranks_come_to_the_same_verdict(found: list[dict[str, Any]]) -> None:
    for name in ("swapped", "swapped, cut", "right, cut"):
        assert {**found[0][name], "seconds": 0} == {**found[1][name], "seconds": 0}
    assert found[0]["right"]["tokens"] == found[1]["right"]["tokens"] > 0


def test_model_cut_right_passes_whole_and_as_two_layers(found: list[dict[str, Any]]) -> None:
    assert found[0]["right"]["result"] == "passed"
    assert found[0]["right, cut"]["result"] == "reduced"


def test_swapped_shard_is_found_whole_and_in_two_layers(found: list[dict[str, Any]]) -> None:
    assert "option.tensor_parallel_degree=2: the model cut over 2 ranks" in found[0]["swapped"]["error"]
    assert "greedy tokens agree" in found[0]["swapped, cut"]["error"]


def test_model_that_does_not_run_when_cut_is_refused_by_its_option(found: list[dict[str, Any]]) -> None:
    error = found[0]["bloom"]["error"]
    assert error.startswith("option.tensor_parallel_degree=2: BloomForCausalLM does not run")
    assert error.endswith("set option.tensor_parallel_degree=1")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) for DeepSpeed's operator")
def test_no_shared_memory_is_left_of_a_group() -> None:
    port = free_port()
    for rank in range(RANKS):  # of an earlier group with this port, which was killed
        Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_{port}_{rank}").write_bytes(b"old")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # compiles once, for a minute
    found = run_ranks([str(SCRIPT.with_name("shm_rank.py"))], cache, port)
    assert found == [{"sum": [3.0] * 64}] * RANKS
    assert list(Path("/dev/shm").glob(f"*_{port}_*")) == []

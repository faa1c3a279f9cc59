"""A group over two hosts that share neither /tmp nor /dev/shm nor a network but one link."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from frame.testing import Server, run_server

from tests.process.other_host import HERE, NAME, THERE, OtherHost, OtherHostError, other_host
from tests.process.probes import describe, is_alive, until
from tests.process.rank_models import assert_right, post, put_ranks, stream_order, sum_order, wait_ranks

pytestmark = pytest.mark.slow(120)


@pytest.fixture
def host() -> Iterator[OtherHost]:
    """Bring the other host up."""
    with tempfile.TemporaryDirectory(prefix="frame-hosts-", dir="/var/tmp") as folder:
        try:
            with other_host(Path(folder)) as made:
                yield made
        except OtherHostError as why:
            pytest.skip(str(why))


@pytest.fixture
def server(host: OtherHost) -> Iterator[Server]:
    """Serve a group with a rank on each host, from a store that both see."""
    store = host.agent.parent / "store"
    put_ranks(store, "far", 2, option__hosts=f"{HERE}:1,{THERE}:1", option__master_addr=HERE, batch_size=2)
    with run_server(store, environ={"PRTE_MCA_plm_ssh_agent": str(host.agent)}) as running:
        yield running


def test_a_group_over_two_hosts_serves_until_the_link_is_lost(server: Server, host: OtherHost) -> None:
    ranks = wait_ranks(server, "far")
    (worker,) = describe(server, "far")["workerGroups"][0]["workers"]
    assert [rank["host"] for rank in worker["ranks"]] == [socket.gethostname(), NAME]
    assert host.run("sh", "-c", "ls /tmp /dev/shm | grep -c frame || true").strip() == "0"

    for made in (
        sum_order("far", 2),
        sum_order("far", 2, padding="x" * 2_500_000),  # no descriptor can carry it
        stream_order("far", 2, 50),
    ):
        assert_right(made, post(server, made))

    host.cut()
    found = server.wait_for_log(r"(?m)^.*worker_ended model=far .*$")
    assert "kind=stalled" in found[0] or "rank 1" in found[0]
    until(lambda: not any(is_alive(pid) for pid in ranks), what=f"the end of {ranks}")
    until(lambda: "prted" not in host.run("ps", "-e", "-o", "args"), what="the end of mpirun's daemon")

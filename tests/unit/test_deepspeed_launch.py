"""From options to the command of a group's launcher: Open MPI, MPICH, none, several hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from frame.api import LaunchRequest
from frame.contract.engines import RanksRequest
from frame_deepspeed.hosts import Host, parse_hosts
from frame_deepspeed.launch import degree, group_environment, launch, listen_address, mpi_command
from frame_deepspeed.options import DeepSpeedOptions
from hypothesis import given
from hypothesis import strategies as st

PYTHON = "/venv/bin/python"
WORKER = ("-m", "frame.worker", "--connect", "unix:/run/s", "--parent", "7")
RANK = (PYTHON, "-m", "frame_deepspeed.rank", "--connect", "unix:/run/s", "--parent", "7")
SECRET = "0123456789abcdef"


def request(ranks: int = 2, *, devices=("cpu",), environment=None, **options) -> LaunchRequest:
    return LaunchRequest(
        interpreter=PYTHON,
        arguments=WORKER,
        environment={"PATH": "/bin", "FRAME_GROUP_TOKEN": SECRET, **(environment or {})},
        devices=devices,
        ranks=ranks,
        options=DeepSpeedOptions(**options),
        parent=7,
    )


def command(flavour: str, *, hosts=(), hostfile=None, ranks: int = 2, environment=None) -> tuple[str, ...]:
    return mpi_command(
        flavour,
        "/opt/mpirun",
        ranks=ranks,
        hosts=hosts,
        hostfile=hostfile,
        environment=environment or {"PATH": "/bin", "FRAME_GROUP_TOKEN": SECRET},
        command=RANK,
    )


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


# --- what the router starts --------------------------------------------------------------------------


def test_one_rank_is_started_by_itself():
    made = launch(request(1))
    assert made.argv == RANK
    assert {name: made.environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")} == {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1",
    }  # fmt: skip


def test_ranks_are_started_by_mpirun_behind_a_launcher_that_dies_with_the_router():
    assert launch(request(4)).argv == (
        PYTHON, "-m", "frame.worker.launcher", "--parent", "7", "exec", "--",
        PYTHON, "-m", "frame_deepspeed.start", "--ranks", "4", "--", *RANK,
    )  # fmt: skip


def test_ranks_are_started_without_mpi_where_that_is_asked_for():
    assert launch(request(4, launcher="spawn")).argv == (
        PYTHON, "-m", "frame.worker.launcher", "--parent", "7", "spawn", "--ranks", "4", "--", *RANK,
    )  # fmt: skip


def test_mpirun_hosts_and_hostfile_are_passed_on():
    argv = launch(request(mpirun="/opt/mpirun", hosts="a:1,b:1", hostfile="/h", master_addr="10.0.0.1")).argv
    assert (after(argv, "--mpirun"), after(argv, "--hosts"), after(argv, "--hostfile")) == (
        "/opt/mpirun", "a:1,b:1", "/h",
    )  # fmt: skip


def test_one_rank_on_another_host_needs_mpirun_all_the_same():
    assert "frame_deepspeed.start" in launch(request(1, hosts="b:1", master_addr="10.0.0.1")).argv


@given(ranks=st.integers(1, 16), launcher=st.sampled_from(["mpirun", "spawn"]))
def test_the_token_is_in_the_environment_and_never_in_an_argv(ranks, launcher):
    made = launch(request(ranks, launcher=launcher))
    assert made.environment["FRAME_GROUP_TOKEN"] == SECRET
    assert not any(SECRET in argument for argument in made.argv)


# --- the environment of all ranks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin:/usr/bin", "/venv/bin:/bin:/usr/bin"),
        ("/bin:/venv/bin:/usr/bin", "/venv/bin:/bin:/usr/bin"),
        ("", "/venv/bin"),
    ],
)
def test_the_interpreters_folder_comes_first_in_path(path, expected):
    assert group_environment(request(environment={"PATH": path}))["PATH"] == expected


def test_the_degree_is_known_to_the_handler():
    assert group_environment(request(4))["TENSOR_PARALLEL_DEGREE"] == "4"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "127.0.0.1"),
        ({"master_addr": "10.0.0.9"}, "10.0.0.9"),
        ({"hosts": "10.0.0.1:1,10.0.0.2:1", "master_addr": "10.0.0.1"}, "10.0.0.1"),
        ({"hostfile": "/h", "master_addr": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_the_first_rank_is_met_on_its_own_host(options, expected):
    assert group_environment(request(**options))["MASTER_ADDR"] == expected


def test_deepspeed_looks_for_no_accelerator_on_the_cpu():
    assert group_environment(request())["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in group_environment(request(devices=("gpu0", "gpu1")))


def test_every_rank_sees_the_devices_of_its_group():
    environment = {"CUDA_VISIBLE_DEVICES": "2,3"}
    made = launch(request(2, devices=("gpu0", "gpu1"), environment=environment))
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "2,3"


# --- mpirun ------------------------------------------------------------------------------------------


def test_open_mpi_runs_as_root_on_busy_cores_and_looks_for_no_network():
    assert command("openmpi") == (
        "/opt/mpirun", "-n", "2", "--allow-run-as-root", "--bind-to", "none",
        "--mca", "pml", "ob1", "--mca", "btl", "self,sm", "--oversubscribe", *RANK,
    )  # fmt: skip


def test_mpich_gets_none_of_open_mpis_flags():
    assert command("mpich") == ("/opt/mpirun", "-n", "2", *RANK)


def test_open_mpi_spreads_ranks_over_hosts_and_passes_variables_by_name():
    argv = command("openmpi", hosts=(Host("a", 1), Host("b", 3)), ranks=4)
    assert after(argv, "--host") == "a:1,b:3"
    assert after(argv, "btl") == "self,sm,tcp"
    assert "--oversubscribe" not in argv  # all ranks would land on the first host
    assert [argv[i + 1] for i, flag in enumerate(argv) if flag == "-x"] == ["FRAME_GROUP_TOKEN", "PATH"]
    assert not any(SECRET in argument for argument in argv)


def test_mpich_spreads_ranks_over_hosts_and_passes_variables_by_name():
    argv = command("mpich", hosts=(Host("a", 1), Host("b", 3)), ranks=4)
    assert after(argv, "-hosts") == "a:1,b:3"
    assert after(argv, "-genvlist") == "FRAME_GROUP_TOKEN,PATH"
    assert not any(SECRET in argument for argument in argv)


@pytest.mark.parametrize(("flavour", "flag"), [("openmpi", "--hostfile"), ("mpich", "-f")])
def test_a_hostfile_is_passed_through(flavour, flag):
    argv = command(flavour, hostfile="/etc/hosts.mpi")
    assert after(argv, flag) == "/etc/hosts.mpi"
    assert any("FRAME_GROUP_TOKEN" in argument for argument in argv)


@pytest.mark.parametrize("flavour", ["openmpi", "mpich"])
def test_what_belongs_to_this_host_stays_here(flavour):
    environment = {"HOSTNAME": "a", "PWD": "/x", "SHLVL": "1", "_": "y", "LANG": "C"}
    argv = command(flavour, hosts=(Host("a", 1), Host("b", 1)), environment=environment)
    assert not {"HOSTNAME", "PWD", "SHLVL", "_"} & {name for text in argv for name in text.split(",")}
    assert "LANG" in argv[-len(RANK) - 1]


@given(
    flavour=st.sampled_from(["openmpi", "mpich"]),
    ranks=st.integers(1, 64),
    hosts=st.lists(
        st.builds(Host, st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(1, 8)), max_size=4
    ),
)
def test_the_command_of_the_ranks_ends_every_argv(flavour, ranks, hosts):
    argv = command(flavour, ranks=ranks, hosts=hosts)
    assert argv[-len(RANK) :] == RANK
    assert after(argv, "-n") == str(ranks)


# --- hosts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", (Host("a", 1),)),
        ("a:4", (Host("a", 4),)),
        ("10.0.0.1:2, 10.0.0.2:2", (Host("10.0.0.1", 2), Host("10.0.0.2", 2))),
        ("[fd00::1]:2,[fd00::2]", (Host("[fd00::1]", 2), Host("[fd00::2]", 1))),
    ],
)
def test_hosts_are_read(text, expected):
    assert parse_hosts(text) == expected


@pytest.mark.parametrize("text", ["", ",", "a:0", "a:x", "a:-1"])
def test_malformed_hosts_name_the_option(text):
    with pytest.raises(ValueError, match=r"option\.hosts"):
        parse_hosts(text)


@pytest.mark.parametrize("named", [{"hosts": "a:1,b:1"}, {"hostfile": "/h"}])
def test_the_router_listens_where_other_hosts_reach_it(named):
    assert listen_address(DeepSpeedOptions()) is None
    assert listen_address(DeepSpeedOptions(master_addr="10.0.0.1")) is None
    assert listen_address(DeepSpeedOptions(master_addr="10.0.0.1", **named)) == "10.0.0.1"
    with pytest.raises(ValueError, match=r"option\.master_addr"):
        listen_address(DeepSpeedOptions(**named))


# --- how many ranks ----------------------------------------------------------------------------------


def asked(accelerators: int = 0, environ=None, **options) -> RanksRequest:
    return RanksRequest(options=DeepSpeedOptions(**options), accelerators=accelerators, environ=environ or {})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(), 1),
        (asked(4), 4),
        (asked(4, tensor_parallel_degree="2"), 2),
        (asked(4, tensor_parallel_degree="max"), 4),
        (asked(0, tensor_parallel_degree="max"), 1),
        (asked(0, tensor_parallel_degree="4"), 4),
        (asked(4, {"TENSOR_PARALLEL_DEGREE": "2"}), 2),
        (asked(4, {"TENSOR_PARALLEL_DEGREE": "2"}, tensor_parallel_degree="1"), 1),
        (asked(0, hosts="a:2,b:2", master_addr="a"), 4),
        (asked(0, hosts="a:2,b:2", master_addr="a", tensor_parallel_degree="4"), 4),
    ],
)
def test_ranks_are_what_is_set_then_the_variable_then_all_accelerators_then_one(request_, expected):
    assert degree(request_) == expected


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (
            asked(4, tensor_parallel_degree="3"),
            ("option.tensor_parallel_degree=3", "4 accelerators", "1, 2, 4"),
        ),
        (
            asked(2, tensor_parallel_degree="4"),
            ("option.tensor_parallel_degree=4", "2 accelerators", "at most 2"),
        ),
        (asked(2, {"TENSOR_PARALLEL_DEGREE": "4"}), ("TENSOR_PARALLEL_DEGREE=4", "at most 2")),
        (asked(tensor_parallel_degree="0"), ("option.tensor_parallel_degree=0", "from 1, or max")),
        (asked(tensor_parallel_degree="two"), ("option.tensor_parallel_degree=two", "from 1, or max")),
        (asked(pipeline_parallel_degree=2), ("option.pipeline_parallel_degree=2", "leave it at 1")),
        (asked(hosts="a:2,b:2", master_addr="a", tensor_parallel_degree="2"), ("option.hosts", "4 ranks")),
        (
            asked(hosts="a:2", master_addr="a", launcher="spawn", tensor_parallel_degree="2"),
            ("option.launcher=spawn", "option.launcher=mpirun"),
        ),
    ],
)
def test_what_no_group_can_have_names_option_numbers_and_remedy(request_, parts):
    with pytest.raises(ValueError, match=r"option|TENSOR") as caught:
        degree(request_)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["max", None])
def test_spawn_cannot_reach_other_hosts_whatever_the_degree(text):
    wanted = replace(
        asked(), options=DeepSpeedOptions(
            hosts="a:1,b:1", master_addr="a", launcher="spawn", tensor_parallel_degree=text
        ),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"option\.launcher=spawn"):
        degree(wanted)

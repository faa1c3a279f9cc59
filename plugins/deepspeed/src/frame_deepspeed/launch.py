"""From options and devices to the command of a group's launcher. Pure."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import Literal

from frame.api import LaunchCommand, LaunchRequest, RanksRequest

from frame_deepspeed.hosts import Host, parse_hosts
from frame_deepspeed.options import DeepSpeedOptions

Flavour = Literal["openmpi", "mpich"]
_RANK_MODULE = ("-m", "frame_deepspeed.rank")
_NOT_FOR_OTHER_HOSTS = {"HOSTNAME", "PWD", "SHLVL", "_"}


def degree(request: RanksRequest) -> int:
    """Return the ranks of a group: the option, else TENSOR_PARALLEL_DEGREE, else all accelerators, else 1.

    Raises:
        ValueError: no such group can be made; names the option and the remedy.
    """
    options: DeepSpeedOptions = request.options
    if options.pipeline_parallel_degree != 1:
        raise ValueError(
            f"option.pipeline_parallel_degree={options.pipeline_parallel_degree}: models are cut by "
            "option.tensor_parallel_degree only; leave it at 1"
        )
    if _spans_hosts(options) and options.launcher != "mpirun":
        raise ValueError(
            "option.launcher=spawn starts ranks on one host; several need option.launcher=mpirun"
        )
    named, text = "option.tensor_parallel_degree", options.tensor_parallel_degree
    if text is None:
        named, text = "TENSOR_PARALLEL_DEGREE", request.environ.get("TENSOR_PARALLEL_DEGREE", "max")
    if text == "max":
        return sum(host.ranks for host in hosts_of(options)) or max(1, request.accelerators)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{named}={text}: expected a whole number from 1, or max")
    count = int(text)
    _check_hosts(options, named, count)
    if request.accelerators and not _spans_hosts(options):
        _check_accelerators(named, count, request.accelerators)
    return count


def _check_accelerators(named: str, count: int, accelerators: int) -> None:
    if count > accelerators:
        raise ValueError(
            f"{named}={count}: there are {accelerators} accelerators (load_on_devices); "
            f"set at most {accelerators}, or load_on_devices=cpu to try it on the CPU"
        )
    if accelerators % count:
        fitting = [str(number) for number in range(1, accelerators + 1) if accelerators % number == 0]
        raise ValueError(
            f"{named}={count} does not divide the {accelerators} accelerators (load_on_devices); "
            f"set {', '.join(fitting)}, or name fewer devices in load_on_devices"
        )


def _check_hosts(options: DeepSpeedOptions, named: str, count: int) -> None:
    hosts = hosts_of(options)
    if hosts and sum(host.ranks for host in hosts) != count:
        raise ValueError(
            f"{named}={count}: option.hosts={options.hosts} has {sum(host.ranks for host in hosts)} ranks; "
            "make them equal"
        )


def _spans_hosts(options: DeepSpeedOptions) -> bool:
    return options.hosts is not None or options.hostfile is not None


def hosts_of(options: DeepSpeedOptions) -> tuple[Host, ...]:
    """Return the hosts that `option.hosts` names."""
    return () if options.hosts is None else parse_hosts(options.hosts)


def listen_address(options: DeepSpeedOptions) -> str | None:
    """Return where the router listens for ranks of other hosts.

    Raises:
        ValueError: there are several hosts, and the address is not set.
    """
    if not _spans_hosts(options):
        return None
    if options.master_addr is None:
        raise ValueError(
            "option.hosts and option.hostfile need option.master_addr: an address of this host that the "
            "others can reach"
        )
    return options.master_addr


def launch(request: LaunchRequest) -> LaunchCommand:
    """Start a group: one rank by itself, several by mpirun or by Frame's own launcher."""
    options: DeepSpeedOptions = request.options
    environment = group_environment(request)
    rank = (request.interpreter, *_RANK_MODULE, *request.arguments[2:])  # without `-m frame.worker`
    launcher = (request.interpreter, "-m", "frame.worker.launcher", "--parent", str(request.parent))
    if request.ranks == 1 and not _spans_hosts(options):
        environment.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_SIZE="1")
        return LaunchCommand(rank, environment)
    ranks = ("--ranks", str(request.ranks))
    if options.launcher == "spawn":
        return LaunchCommand((*launcher, "spawn", *ranks, "--", *rank), environment)
    start = [request.interpreter, "-m", "frame_deepspeed.start", *ranks]
    for flag, value in (
        ("--mpirun", options.mpirun),
        ("--hosts", options.hosts),
        ("--hostfile", options.hostfile),
    ):
        start += [] if value is None else [flag, value]
    return LaunchCommand((*launcher, "exec", "--", *start, "--", *rank), environment)


def group_environment(request: LaunchRequest) -> dict[str, str]:
    """Return the environment of all ranks of a group.

    The interpreter's folder comes first in PATH: its environment brings mpirun, and ninja for DeepSpeed's
    operators.
    """
    options: DeepSpeedOptions = request.options
    environment = dict(request.environment)
    own = os.path.dirname(request.interpreter)  # noqa: PTH120  # pure: no Path that could look at the disk
    folders = [folder for folder in environment.get("PATH", "").split(":") if folder and folder != own]
    environment["PATH"] = ":".join(filter(None, (own, *folders)))
    environment["TENSOR_PARALLEL_DEGREE"] = str(request.ranks)
    hosts = hosts_of(options)
    environment["MASTER_ADDR"] = (hosts[0].name if hosts else options.master_addr) or "127.0.0.1"
    environment.setdefault("HF_HUB_OFFLINE", "1")
    if request.devices == ("cpu",):
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def mpi_command(
    flavour: Flavour,
    mpirun: str,
    *,
    ranks: int,
    hosts: Sequence[Host],
    hostfile: str | None,
    environment: Mapping[str, str],
    command: Sequence[str],
) -> tuple[str, ...]:
    """Return the argv of mpirun (Open MPI) or mpiexec (MPICH) for one group.

    Args:
        hosts, hostfile: passed through; both empty for this host alone.
        environment: names only are passed to other hosts, so that no value (the token) is in an argv.
        command: of each rank.
    """
    spans_hosts = bool(hosts) or hostfile is not None
    if flavour == "mpich":
        return (mpirun, *_mpich_flags(ranks, hosts, hostfile, environment), *command)
    flags = ["-n", str(ranks), "--allow-run-as-root", "--bind-to", "none"]
    # Without these it looks for networks first, a second long; ranks talk by torch's collectives, not by MPI.
    flags += ["--mca", "pml", "ob1", "--mca", "btl", "self,sm,tcp" if spans_hosts else "self,sm"]
    if not spans_hosts:
        flags.append("--oversubscribe")  # with it, all ranks of several hosts would be put on the first
    if hosts:
        flags += ["--host", ",".join(f"{host.name}:{host.ranks}" for host in hosts)]
    if hostfile is not None:
        flags += ["--hostfile", hostfile]
    if spans_hosts:
        for name in sorted(set(environment) - _NOT_FOR_OTHER_HOSTS):
            flags += ["-x", name]
    return (mpirun, *flags, *command)


def _mpich_flags(
    ranks: int, hosts: Sequence[Host], hostfile: str | None, environment: Mapping[str, str]
) -> list[str]:
    flags = ["-n", str(ranks)]
    if hosts:
        flags += ["-hosts", ",".join(f"{host.name}:{host.ranks}" for host in hosts)]
    if hostfile is not None:
        flags += ["-f", hostfile]
    if hosts or hostfile is not None:
        flags += ["-genvlist", ",".join(sorted(set(environment) - _NOT_FOR_OTHER_HOSTS))]
    return flags

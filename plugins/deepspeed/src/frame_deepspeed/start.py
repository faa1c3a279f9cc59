"""Becomes mpirun: `python -m frame_deepspeed.start --ranks N [--hosts …] -- ARGV…`."""

from __future__ import annotations

import argparse
import os
import sys

from frame_deepspeed.hosts import parse_hosts
from frame_deepspeed.launch import mpi_command
from frame_deepspeed.mpi import ask_flavour, find_mpirun


def main() -> int:
    """Find mpirun and become it; returns 1 when there is none."""
    parser = argparse.ArgumentParser(prog="frame_deepspeed.start")
    parser.add_argument("--ranks", required=True, type=int)
    parser.add_argument("--mpirun")
    parser.add_argument("--hosts")
    parser.add_argument("--hostfile")
    parser.add_argument("argv", nargs="+", help="after --, what each rank runs")
    arguments = parser.parse_args()
    try:
        mpirun = find_mpirun(arguments.mpirun, sys.executable, os.environ)
        flavour = ask_flavour(mpirun, os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201  # it goes to the group's log
        return 1
    command = mpi_command(
        flavour,
        mpirun,
        ranks=arguments.ranks,
        hosts=parse_hosts(arguments.hosts) if arguments.hosts else (),
        hostfile=arguments.hostfile,
        environment=os.environ,
        command=arguments.argv,
    )
    os.execve(mpirun, command, os.environ)  # noqa: S606  # argv is made above
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of a worker process: `python -m frame.worker --connect unix:PATH|tcp:HOST:PORT --parent PID`.

A rank of several reads RANK, WORLD_SIZE and FRAME_LAUNCHER_PID, which its launcher sets.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import sys

from frame.wire.addresses import parse_address
from frame.wire.messages import HelloHead, Kind
from frame.worker.channel import Channel
from frame.worker.door import Door, free_port, open_door
from frame.worker.guard import die_with_launcher, die_with_parent
from frame.worker.ranks import Place, Ranks, find_place
from frame.worker.session import Session
from frame.worker.sockets import connect

TOKEN_VARIABLE = "FRAME_GROUP_TOKEN"  # noqa: S105  # the variable's name, not a token
_CONNECT_SECONDS = 30.0


def main() -> int:
    """Connect to the router and serve until told to end."""
    parser = argparse.ArgumentParser(prog="frame.worker")
    parser.add_argument("--connect", required=True, type=parse_address, help="the router's end of the group")
    parser.add_argument(
        "--parent", required=True, type=int, help="pid that must be alive; of several ranks, their launcher's"
    )
    parser.add_argument("--log-level", default="INFO")
    arguments = parser.parse_args()
    place = find_place(os.environ)
    if place.world_size > 1:
        die_with_launcher(os.environ)
    else:
        die_with_parent(arguments.parent)
    logging.basicConfig(level=arguments.log_level, format=log_format(place), stream=sys.stderr)
    token = os.environ.pop(TOKEN_VARIABLE, "")
    connection = connect(arguments.connect, _CONNECT_SECONDS)
    door = open_door(arguments.connect, connection) if place.rank == 0 and place.world_size > 1 else None
    channel = Channel(connection)
    channel.send(Kind.HELLO, hello_of(place, token, door))
    return Session(channel, Ranks(place, token=token, door=door)).run()


def hello_of(place: Place, token: str, door: Door | None) -> HelloHead:
    """Return what this process says of itself first."""
    hello = HelloHead(
        token=token,
        pid=os.getpid(),
        rank=place.rank,
        python=f"{platform.python_version()} {sys.executable}",
        world_size=place.world_size,
        host=socket.gethostname(),
    )
    if door is not None:
        hello.link, hello.master_port = str(door.address), free_port()
    return hello


def log_format(place: Place) -> str:
    """Return the format of log lines; of several ranks each names its own."""
    rank = f" rank={place.rank}" if place.world_size > 1 else ""
    return f"%(levelname)s %(name)s %(message)s{rank}"


if __name__ == "__main__":
    sys.exit(main())

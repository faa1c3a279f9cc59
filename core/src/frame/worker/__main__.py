"""Entry point of a worker process: `python -m frame.worker --socket PATH --parent PID`."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import sys

from frame.wire.messages import HelloHead, Kind
from frame.worker.channel import Channel
from frame.worker.guard import die_with_parent
from frame.worker.session import Session

TOKEN_VARIABLE = "FRAME_GROUP_TOKEN"  # noqa: S105  # the variable's name, not a token


def main() -> int:
    """Connect to the router and serve until told to end."""
    parser = argparse.ArgumentParser(prog="frame.worker")
    parser.add_argument("--socket", required=True, help="the group's Unix socket")
    parser.add_argument("--parent", required=True, type=int, help="pid that must be alive")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--log-level", default="INFO")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    logging.basicConfig(
        level=arguments.log_level, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(arguments.socket)
    channel = Channel(connection)
    hello = HelloHead(
        token=os.environ.pop(TOKEN_VARIABLE, ""),
        pid=os.getpid(),
        rank=arguments.rank,
        python=f"{platform.python_version()} {sys.executable}",
    )
    channel.send(Kind.HELLO, hello)
    return Session(channel).run()


if __name__ == "__main__":
    sys.exit(main())

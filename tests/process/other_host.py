"""A second host on this machine: with a network, a name, a /tmp and a /dev/shm of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.process.probes import until

HERE, THERE = "198.18.77.1", "198.18.77.2"  # of the range for tests of networks, RFC 2544
NAME = "frame-host-b"
_LINK = "frame-a"
_TOOLS = ("ip", "unshare", "nsenter", "mount", "hostname")

# What is below /tmp and needed there stays: a checkout, an environment.
_PREPARE = """
set -e
hostname {name}
keep={keep}
if [ -n "$keep" ]; then mount --rbind "$keep" /mnt; fi
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
if [ -n "$keep" ]; then mkdir -p "$keep"; mount --rbind /mnt "$keep"; fi
echo ready
exec sleep 1000
"""

# mpirun calls it as it would ssh: the host, then a command line for the shell there.
_AGENT = """#!/bin/sh
while [ "$1" != {there} ]; do
    if [ $# -eq 0 ]; then echo "another host than {there} was asked for" >&2; exit 1; fi
    shift
done
shift
exec nsenter --target {pid} --net --mount --uts --wd=/ sh -c "$*"
"""


class OtherHostError(Exception):
    """This machine does not let the test make one."""


@dataclass(frozen=True)
class OtherHost:
    """A host that is up.

    Attributes:
        agent: an executable that runs commands there, as `PRTE_MCA_plm_ssh_agent` wants it.
        pid: of a process there.
    """

    agent: Path
    pid: int

    def run(self, *command: str) -> str:
        """Run a command there and return what it printed."""
        inside = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts"]
        return subprocess.run([*inside, *command], check=True, capture_output=True, text=True).stdout

    def cut(self) -> None:
        """Lose the link: nothing arrives any more, and nobody is told."""
        _ip("link", "set", _LINK, "down")


@contextmanager
def other_host(folder: Path) -> Iterator[OtherHost]:
    """Bring a host up while the block runs; all that runs there ends with it.

    Args:
        folder: for the agent.

    Raises:
        OtherHostError: a tool or the right to make namespaces is missing.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise OtherHostError(f"needs root, and {', '.join(_TOOLS)}")
    script = _PREPARE.format(name=NAME, keep=shlex.quote(_kept()))
    command = ["unshare", "--net", "--mount", "--uts", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stderr is not None
            if first.stdout.readline().strip() != "ready":
                raise OtherHostError(first.stderr.read().strip() or "no namespaces")
            _connect(first.pid)
            agent = folder / "agent"
            agent.write_text(_AGENT.format(there=THERE, pid=first.pid))
            agent.chmod(0o755)
            yield OtherHost(agent, first.pid)
        finally:
            first.kill()
            _ip("link", "delete", _LINK, check=False)


def _kept() -> str:
    """Return the folder below /tmp that holds the interpreter; empty when it is elsewhere."""
    parts = Path(sys.prefix).parts
    return str(Path(*parts[:3])) if parts[:2] == ("/", "tmp") else ""


def _connect(pid: int) -> None:
    _ip("link", "delete", _LINK, check=False)  # of a run that was killed
    made = _ip(
        "link", "add", _LINK, "type", "veth", "peer", "name", "frame-b", "netns", str(pid), check=False
    )
    if made.returncode != 0:
        raise OtherHostError(made.stderr.strip())
    _ip("address", "add", f"{HERE}/30", "dev", _LINK)
    _ip("link", "set", _LINK, "up")
    for arguments in (["address", "add", f"{THERE}/30", "dev", "frame-b"], ["link", "set", "frame-b", "up"]):
        subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *arguments], check=True)
    subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", "link", "set", "lo", "up"], check=True)
    until(lambda: "LOWER_UP" in _ip("-o", "link", "show", _LINK).stdout, what="the link")


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)

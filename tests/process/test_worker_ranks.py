"""Real ranks of a group, their router played by the test: they load, follow rank 0, drain, and end as one."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from frame.api import LaunchRequest, Part, launch_spawn
from frame.wire.addresses import Address, TcpAddress, UnixAddress
from frame.wire.messages import CancelHead, JobHead, Kind, LoadHead, RunHead
from frame.worker.__main__ import TOKEN_VARIABLE
from frame.worker.channel import Channel, Message, PartReader, place_parts

from tests.process.probes import DEADLINE, is_alive, until

LARGE = b"x" * (3 << 20)  # over a Unix socket it travels as a descriptor


class Played:
    """A router's side of a group: one channel for each rank, in the order of the ranks."""

    def __init__(
        self, process: subprocess.Popen[bytes], listener: socket.socket, token: str, ranks: int
    ) -> None:
        self.process = process
        self.hellos: list[dict[str, Any]] = [{}] * ranks
        self.sockets: list[socket.socket] = [listener] * ranks
        self.channels: list[Channel] = [Channel(listener)] * ranks
        self.unread: list[list[Message]] = [[] for _ in range(ranks)]
        listener.settimeout(DEADLINE)
        for _ in range(ranks):
            connection, _ = listener.accept()
            channel = Channel(connection)
            (message,) = channel.read(DEADLINE)
            head = message.head
            assert (message.kind, head["token"], head["world_size"]) == (Kind.HELLO, token, ranks)
            rank = head["rank"]
            self.hellos[rank], self.sockets[rank], self.channels[rank] = head, connection, channel

    @property
    def pids(self) -> list[int]:
        return [hello["pid"] for hello in self.hellos]

    def load(self, folder: Path, target: str = "frame.worker.echo:EchoEngine", **properties: str) -> None:
        """Tell each rank what to load and where to meet."""
        for rank, channel in enumerate(self.channels):
            head = LoadHead(
                engine_target=target, options_target="frame.worker.echo:EchoOptions", name="m", version=None,
                path=str(folder), model_file=None, properties=properties, batch_size=4, devices=["cpu"],
                rank=rank, world_size=len(self.channels), threads=1, slots=1, max_slots=1,
                link=self.hellos[0]["link"], master_port=self.hellos[0]["master_port"],
            )  # fmt: skip
            channel.send(Kind.LOAD, head)

    def wait_loaded(self) -> None:
        for rank in range(len(self.channels)):
            self.next(rank, Kind.LOADED)

    def next(self, rank: int, *kinds: Kind) -> Message:
        """Return the next message of a rank that is of these kinds; others are dropped."""
        deadline = time.monotonic() + DEADLINE
        while True:
            while not self.unread[rank]:
                assert time.monotonic() < deadline, f"rank {rank} sent no {kinds}"
                self.unread[rank] += self.channels[rank].read(1.0)
            message = self.unread[rank].pop(0)
            if message.kind in kinds:
                return message

    def run(self, batch: int, bodies: dict[int, bytes]) -> None:
        """Send a batch to every rank."""
        for channel in self.channels:
            heads = []
            before = 0
            for job, body in bodies.items():
                placed = place_parts([Part("data", body)], before)
                before += sum(index >= 0 for _, _, index in placed)
                heads.append(JobHead(job, f"r{job}", {"content-type": "text/plain"}, placed))
            channel.send(Kind.RUN, RunHead(batch, heads), list(bodies.values()))

    def progress(self, rank: int) -> int:
        self.channels[rank].send(Kind.PING, {})
        return int(self.next(rank, Kind.PONG).head["progress"])

    def drain(self) -> int:
        """Let rank 0 end the group; return the launcher's exit code."""
        self.channels[0].send(Kind.DRAIN, {})
        return self.process.wait(DEADLINE)


@contextmanager
def played(folder: Path, ranks: int = 2, *, is_tcp: bool = False) -> Iterator[Played]:
    """Start ranks and take their hellos; all are gone afterwards."""
    token = secrets.token_hex(8)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX))
        path = str(folder / "s")
        listener.bind(("127.0.0.1", 0) if is_tcp else path)
        listener.listen(ranks)
        address: Address = TcpAddress("127.0.0.1", listener.getsockname()[1]) if is_tcp else UnixAddress(path)
        command = launch_spawn(
            LaunchRequest(
                interpreter=sys.executable,
                arguments=("-m", "frame.worker", "--connect", str(address), "--parent", str(os.getpid())),
                environment={**os.environ, TOKEN_VARIABLE: token},
                devices=("cpu",),
                ranks=ranks,
                options=None,
                parent=os.getpid(),
            )
        )
        process = stack.enter_context(subprocess.Popen(command.argv, env=command.environment))
        stack.callback(process.kill)
        made = Played(process, listener, token, ranks)
        for connection in made.sockets:
            stack.enter_context(connection)
        yield made
        made.process.kill()
        until(lambda: not any(is_alive(pid) for pid in made.pids))


def body_of(message: Message) -> bytes:
    """Return the body of the only answer, or of the chunk, that a message carries."""
    if message.kind is Kind.CHUNK:
        return bytes(message.buffers[0])
    heads = message.head["jobs"] if message.kind is Kind.ANSWERS else [message.head]
    (part,) = PartReader(message.buffers).take(heads[0]["parts"])
    return bytes(part.data)


@pytest.mark.parametrize("is_tcp", [False, True])
def test_rank_0_answers_the_others_follow_and_all_end_well(tmp_path: Path, *, is_tcp: bool) -> None:
    with played(tmp_path, 3, is_tcp=is_tcp) as group:
        assert group.hellos[0]["link"].startswith("tcp:127.0.0.1:" if is_tcp else f"unix:{tmp_path}/ranks")
        assert [hello["link"] for hello in group.hellos[1:]] == ["", ""]
        group.load(tmp_path)
        group.wait_loaded()
        assert not (tmp_path / "ranks").exists()
        for batch, body in enumerate((b"small", LARGE), 1):
            group.run(batch, {batch: body})
            assert body_of(group.next(0, Kind.ANSWERS)) == body
        until(lambda: [group.progress(rank) for rank in range(3)] == [4, 4, 4])
        assert group.drain() == 0


def test_streams_and_cancellations_reach_every_rank(tmp_path: Path) -> None:
    with played(tmp_path) as group:
        group.load(tmp_path, mode="stream")
        group.wait_loaded()
        group.run(1, {1: b"a " * 3, 2: b"b " * 1000})
        while body_of(group.next(0, Kind.STREAM, Kind.CHUNK)) != b"b ":
            pass
        group.channels[0].send(Kind.CANCEL, CancelHead([2]))
        while not group.next(0, Kind.ANSWERS).head["end"]:
            pass
        until(lambda: group.progress(0) == group.progress(1))
        assert group.drain() == 0


def test_steps_of_sequences_reach_every_rank(tmp_path: Path) -> None:
    with played(tmp_path) as group:
        group.load(tmp_path, mode="sequence")
        group.wait_loaded()
        group.run(1, {1: b"a b c"})
        group.run(2, {2: b"d"})
        ended = {group.next(0, Kind.END).head["job"] for _ in range(2)}
        assert ended == {1, 2}
        until(lambda: group.progress(0) == group.progress(1))
        assert group.drain() == 0


def test_ranks_end_with_the_connection_of_any_of_them(tmp_path: Path) -> None:
    with played(tmp_path, 3) as group:
        group.load(tmp_path)
        group.wait_loaded()
        group.sockets[2].shutdown(socket.SHUT_RDWR)
        assert group.process.wait(DEADLINE) != 0
        until(lambda: not any(is_alive(pid) for pid in group.pids))


def test_rank_0_ends_when_it_lost_another(tmp_path: Path) -> None:
    with played(tmp_path) as group:
        group.load(tmp_path)
        group.wait_loaded()
        os.kill(group.process.pid, signal.SIGSTOP)  # the launcher does not act
        os.kill(group.pids[1], signal.SIGKILL)
        until(lambda: not is_alive(group.pids[0]))


ENGINE = """
import os, sys
from frame.worker.echo import EchoEngine

class Unlucky(EchoEngine):
    def load(self, spec):
        if self.context.rank == 1 and "at_load" in spec.path:
            raise ValueError("the shard is missing")
        model = super().load(spec)
        assert os.environ["MASTER_ADDR"] and int(os.environ["MASTER_PORT"])
        if self.context.rank == 1 and "at_exit" in spec.path:
            model.predict = lambda batch: sys.exit(3)
        if self.context.rank == 1 and "at_raise" in spec.path:
            model.predict = lambda batch: 1 / 0
        return model

    def close(self):
        if "at_" in os.getcwd():
            import time
            time.sleep(60)  # as a collective which the other ranks never enter
"""


@pytest.mark.parametrize("how", ["at_exit", "at_raise"])
def test_a_rank_that_fails_ends_at_once_and_with_it_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tmp_path / how
    folder.mkdir()
    (folder / "unlucky.py").write_text(ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with played(tmp_path) as group:
        group.load(folder, "unlucky:Unlucky")
        group.wait_loaded()
        group.run(1, {1: b"x"})
        assert group.process.wait(DEADLINE) == 1
        until(lambda: not any(is_alive(pid) for pid in group.pids))


def test_a_rank_that_cannot_load_says_why_before_any_other_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "at_load"
    folder.mkdir()
    (folder / "unlucky.py").write_text(ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with played(tmp_path) as group:
        group.load(folder, "unlucky:Unlucky")
        failed = group.next(1, Kind.LOAD_FAILED).head
        assert failed == {"stage": "load model", "status": 500, "message": "ValueError: the shard is missing"}
        assert group.process.wait(DEADLINE) == 1


def test_ranks_that_never_meet_fail_the_load(tmp_path: Path) -> None:
    with played(tmp_path) as group:
        group.hellos[0]["link"] = f"unix:{tmp_path}/elsewhere"
        group.load(tmp_path)
        failed = group.next(1, Kind.LOAD_FAILED).head
        assert failed["stage"] == "join ranks"
        assert "rank 1 cannot reach rank 0 at unix:" in failed["message"]

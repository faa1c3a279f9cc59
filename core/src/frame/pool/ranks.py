"""The connections of a group's ranks: who has said hello, and one channel for each."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from frame.pool.channel import Channel, Segment
from frame.pool.heads import load_head, message
from frame.pool.hellos import receive
from frame.pool.settings import GroupSettings
from frame.wire.frames import Frame
from frame.wire.messages import HelloHead, Kind

_log = logging.getLogger(__name__)
_GONE_SECONDS = 10.0
"""Seconds until a killed rank must be gone; only one stuck in the kernel takes longer."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""


@dataclass(slots=True)
class Rank:
    """A rank that has said hello.

    Attributes:
        descriptor: of its process (pidfd_open); -1 when it runs on another host.
    """

    hello: HelloHead
    channel: Channel
    descriptor: int = -1


class RankListener(Protocol):
    """What is told about ranks; called on the loop's thread."""

    def rank_frame(self, rank: int, frame: Frame, mapped: list[memoryview]) -> None:
        """A rank sent a message after its hello."""

    def rank_closed(self, rank: int, reason: str) -> None:
        """A rank's connection has ended."""


class Ranks:
    """All ranks of one group.

    Invariants: a connection is believed nothing before it showed the group's token; a rank's number is taken
        once; a process is signalled by the descriptor that was opened at its hello, never by its number.
    """

    def __init__(
        self, name: str, world_size: int, token: str, stall_timeout: float, listener: RankListener
    ) -> None:
        """Expect `world_size` ranks that know `token`.

        Args:
            name: of the model and group, for the log.
            stall_timeout: seconds after which the connection of a host that is not to be reached ends.
        """
        self.world_size = world_size
        self.by_number: dict[int, Rank] = {}
        self.passes_descriptors = True
        """Whether parts may travel as descriptors: all are connected by Unix sockets."""
        self.keeps_descriptors = False
        """Whether large parts of their answers may be passed on without a copy."""
        self._name = name
        self._token = token
        self._stall_timeout = stall_timeout
        self._listener = listener
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def missing(self) -> list[int]:
        """The numbers of those that have not said hello."""
        return [number for number in range(self.world_size) if number not in self.by_number]

    def explain_missing(self, limit: float) -> str:
        """Say who has not said hello within `limit` seconds."""
        if self.world_size == 1:
            return f"start: no hello within {limit:g} s"
        names = ", ".join(map(str, self.missing))
        return f"start: no hello of rank {names} (of {self.world_size}) within {limit:g} s"

    @property
    def lead(self) -> Channel:
        """Rank 0's channel."""
        return self.by_number[0].channel

    async def gather(self, listener: socket.socket) -> None:
        """Accept until every rank has said hello; the caller sets the deadline."""
        patience = self._stall_timeout / 2  # it counts from a ping on, which may come later than the loss
        async with asyncio.TaskGroup() as tasks:
            receiving = receive(listener, self._token, self._admit, name=self._name, patience=patience)
            reception = tasks.create_task(receiving)
            await self._complete
            reception.cancel()

    def load(self, settings: GroupSettings, slots: int, max_slots: int) -> None:
        """Tell each rank what to load, once all have said hello."""
        for rank in self.by_number.values():
            head = load_head(settings, slots, max_slots, rank.hello, self.by_number[0].hello)
            rank.channel.send(message(Kind.LOAD, head))

    def send(self, segments: Sequence[Segment], descriptors: Sequence[int] = ()) -> None:
        """Write one message to every rank."""
        for rank in self.by_number.values():
            rank.channel.send(segments, descriptors)

    def close(self) -> None:
        """Close all connections and descriptors. Idempotent."""
        for rank in self.by_number.values():
            rank.channel.close()
            if rank.descriptor >= 0:
                os.close(rank.descriptor)
                rank.descriptor = -1

    def kill(self) -> None:
        """End the processes of all ranks on this host."""
        for rank in self.by_number.values():
            if rank.descriptor >= 0:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(rank.descriptor, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until no rank is left on this host, a deadline long."""
        poll = select.poll()  # a process's descriptor is readable once it has ended
        left = [rank.descriptor for rank in self.by_number.values() if rank.descriptor >= 0]
        for descriptor in left:
            poll.register(descriptor, select.POLLIN)
        deadline = asyncio.get_running_loop().time() + _GONE_SECONDS
        while len(poll.poll(0)) < len(left):
            if asyncio.get_running_loop().time() > deadline:
                _log.error("rank_not_ended group=%s ranks=%d", self._name, len(left) - len(poll.poll(0)))
                return
            await asyncio.sleep(0.01)

    def _admit(self, connection: socket.socket, hello: HelloHead) -> str:
        """Take a rank in; return why it is refused, "" when it is not.

        Whoever has the token was launched for this group: a number that cannot be ends it.
        """
        if hello.world_size != self.world_size or not 0 <= hello.rank < self.world_size:
            refusal = f"it says that it is rank {hello.rank} of {hello.world_size}, not of {self.world_size}"
        elif hello.rank in self.by_number:
            refusal = f"another process says that it is rank {hello.rank}"
        else:
            self._take(connection, hello)
            return ""
        self._listener.rank_closed(hello.rank, refusal)
        return refusal

    def _take(self, connection: socket.socket, hello: HelloHead) -> None:
        number = hello.rank
        take_frame = partial(self._listener.rank_frame, number)
        take_end = partial(self._listener.rank_closed, number)
        channel = Channel(connection, take_frame, take_end, keeps_descriptors=self.keeps_descriptors)
        rank = Rank(hello, channel)
        self.by_number[number] = rank
        self.passes_descriptors &= connection.family == socket.AF_UNIX
        if self.world_size > 1:
            rank.descriptor = _open_process(connection, hello, self._token)
            facts = (self._name, number, hello.pid, hello.host)
            _log.debug("rank_joined group=%s rank=%d pid=%d host=%s", *facts)
        if not self.missing and not self._complete.done():
            self._complete.set_result(None)


def _open_process(connection: socket.socket, hello: HelloHead, token: str) -> int:
    """Return a descriptor of a rank's process, -1 when it runs elsewhere.

    Over a Unix socket the kernel says who it is. Over TCP it says so itself; two hosts may have one name, so
    the process of that number must have been started with the group's token.
    """
    is_unix = connection.family == socket.AF_UNIX
    if not is_unix and hello.host != socket.gethostname():
        return -1
    try:
        descriptor = os.pidfd_open(_peer_of(connection) if is_unix else hello.pid)
    except (OSError, ValueError):  # gone already, or of another pid namespace
        return -1
    if is_unix or _was_started_with(hello.pid, token):
        return descriptor
    os.close(descriptor)
    return -1


def _peer_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def _was_started_with(pid: int, token: str) -> bool:
    """Tell whether the token is in a process's environment, as it was at its start."""
    try:
        return token.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False

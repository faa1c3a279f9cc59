"""The connections of a group's ranks: who has said hello, and one channel for each."""

from __future__ import annotations

import asyncio
import hmac
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
from typing import Protocol

from frame.pool.channel import Channel, Segment
from frame.pool.heads import decode_head, load_head, message
from frame.pool.settings import GroupSettings
from frame.wire.frames import Frame, WireError
from frame.wire.messages import HelloHead, Kind
from frame.worker.sockets import notice_loss

_log = logging.getLogger(__name__)
_HELLO_SECONDS = 5.0
"""Seconds in which somebody who connected must have said who it is."""
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
        self._name = name
        self._token = token
        self._stall_timeout = stall_timeout
        self._listener = listener
        self._strangers: set[Channel] = set()

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
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        while self.missing:
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            heard = asyncio.ensure_future(changed.wait())
            try:
                await asyncio.wait((accepting, heard), return_when=asyncio.FIRST_COMPLETED)
            finally:
                heard.cancel()
                if not accepting.done():
                    accepting.cancel()
            changed.clear()
            if accepting.done() and not accepting.cancelled():
                self._meet(accepting.result()[0], changed)

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
        for stranger in self._strangers:
            stranger.close()
        self._strangers.clear()
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

    # --- strangers ----------------------------------------------------------------------------

    def _meet(self, connection: socket.socket, changed: asyncio.Event) -> None:
        """Let somebody who connected say hello, within a time and with no body."""
        loop = asyncio.get_running_loop()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_loss(connection, self._stall_timeout)

        def close(reason: str) -> None:
            timer.cancel()
            self._strangers.discard(channel)
            channel.close()
            _log.warning("rank_refused group=%s reason=%s", self._name, reason)

        def take(frame: Frame, mapped: list[memoryview]) -> None:
            del mapped
            refusal = self._take_hello(frame, channel)
            if refusal:
                close(refusal)
                return
            timer.cancel()
            self._strangers.discard(channel)
            changed.set()

        channel = Channel(connection, take, close, max_body_bytes=0)
        self._strangers.add(channel)
        timer = loop.call_later(_HELLO_SECONDS, close, f"no hello within {_HELLO_SECONDS:g} s")

    def _take_hello(self, frame: Frame, channel: Channel) -> str:
        """Take a rank in; return why it is refused, "" when it is not."""
        try:
            hello = decode_head(frame) if frame.kind == Kind.HELLO else None
        except WireError:
            hello = None
        if not isinstance(hello, HelloHead):
            return "its first message is no hello"
        if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            return "wrong token"
        if hello.world_size != self.world_size or hello.rank not in self.missing:
            return f"rank {hello.rank} of {hello.world_size} is not expected"
        connection = channel.detach()
        number = hello.rank
        rank = Rank(
            hello,
            Channel(
                connection,
                partial(self._listener.rank_frame, number),
                partial(self._listener.rank_closed, number),
            ),
        )
        self.by_number[number] = rank
        self.passes_descriptors &= connection.family == socket.AF_UNIX
        pid = _pid_of(connection, hello)
        if pid and self.world_size > 1:
            with suppress(ProcessLookupError):
                rank.descriptor = os.pidfd_open(pid)
        return ""


def _pid_of(connection: socket.socket, hello: HelloHead) -> int:
    """Return a rank's pid as the kernel knows it, or as it says itself; 0 on another host."""
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])
    return hello.pid if hello.host == socket.gethostname() else 0

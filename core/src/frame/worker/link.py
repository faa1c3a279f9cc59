"""The sockets between rank 0 of a group and the others: records one way, outcomes the other.

A lost rank is noticed on either side. Nobody spins: idle ranks sleep in `recv` or `poll`.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from frame.wire.records import OUTCOME, RECORD, Record, RecordDecoder
from frame.worker.sockets import notice_loss

_RECEIVED_BYTES = 256 * RECORD.size
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class LinkError(Exception):
    """The ranks of a group could not find each other, or one is lost."""


class LeaderLink:
    """Rank 0's ends: records to all others, in order, and their outcomes. One thread sends and receives."""

    def __init__(self, peers: Sequence[socket.socket], stall_timeout: float) -> None:
        """Own the peers' sockets, rank 1's first; a peer that takes or gives nothing for so long is lost."""
        self._peers = list(peers)
        self._stall_timeout = stall_timeout
        for peer in self._peers:
            peer.settimeout(stall_timeout)
            notice_loss(peer, stall_timeout)

    def send(self, record: bytes) -> None:
        """Write a record to every other rank.

        Raises:
            LinkError: one of them is gone, or takes none.
        """
        for rank, peer in enumerate(self._peers, start=1):
            _send(peer, rank, record)

    def receive_outcomes(self) -> list[int]:
        """Return the next outcome of every other rank, rank 1's first; waits until all have one.

        Raises:
            LinkError: one of them is gone, or gives none.
        """
        return [_receive_outcome(peer, rank) for rank, peer in enumerate(self._peers, start=1)]

    def wait_lost(self) -> int:
        """Block until a peer's end is closed; return its rank."""
        return 1 + _wait_gone(self._peers)

    def close(self, timeout: float) -> None:
        """Wait until every peer has closed its end, `timeout` seconds at most; then close all.

        So a rank that sees this end close before its own knows that rank 0 is lost. Idempotent.
        """
        deadline = time.monotonic() + timeout
        peers, self._peers = self._peers, []
        for peer in peers:
            with suppress(OSError):  # gone is gone
                peer.settimeout(max(0.001, deadline - time.monotonic()))
                peer.recv(1)
            peer.close()


class FollowerLink:
    """Another rank's end. One thread receives and sends."""

    def __init__(self, connection: socket.socket, stall_timeout: float) -> None:
        """Own the socket that `join` returned."""
        self._socket = connection
        self._decoder = RecordDecoder()
        self._records: list[Record] = []
        notice_loss(connection, stall_timeout)

    def receive(self) -> Record:
        """Return rank 0's next record; waits without limit.

        Raises:
            LinkError: rank 0 is lost.
            WireError: it sent what is no record.
        """
        while not self._records:
            try:
                data = self._socket.recv(_RECEIVED_BYTES)
            except OSError as error:
                raise LinkError(f"rank 0 is lost: {error}") from error
            if not data:
                raise LinkError("rank 0 is lost: it closed the connection")
            self._records = self._decoder.feed(data)[::-1]
        return self._records.pop()

    def send_outcome(self, outcome: int) -> None:
        """Tell rank 0 what came of its last record.

        Raises:
            LinkError: rank 0 is lost.
        """
        _send(self._socket, 0, OUTCOME.pack(outcome))

    def wait_lost(self) -> int:
        """Block until rank 0's end is closed; return 0, its rank."""
        return _wait_gone([self._socket])

    def close(self, timeout: float = 0.0) -> None:
        """Tell rank 0 that this rank has ended. Idempotent."""
        del timeout
        with suppress(OSError):  # it may be closed
            self._socket.shutdown(socket.SHUT_RDWR)


def watch(wait_lost: Callable[[], int], lost: Callable[[int], None]) -> None:
    """Call `lost` with the rank that `wait_lost` returns, in a thread of its own: the model may compute."""
    thread = threading.Thread(target=lambda: lost(wait_lost()), name="frame-link", daemon=True)
    thread.start()


def _send(peer: socket.socket, rank: int, data: bytes) -> None:
    try:
        peer.sendall(data)
    except OSError as error:
        raise LinkError(f"rank {rank} takes nothing: {error}") from error


def _receive_outcome(peer: socket.socket, rank: int) -> int:
    try:
        data = peer.recv(OUTCOME.size, socket.MSG_WAITALL)
    except TimeoutError as error:
        raise LinkError(f"rank {rank} has not ended what rank 0 has, {peer.gettimeout():g} s ago") from error
    except OSError as error:
        raise LinkError(f"rank {rank} is lost: {error}") from error
    if len(data) < OUTCOME.size:
        raise LinkError(f"rank {rank} is lost: it closed the connection")
    outcome: int = OUTCOME.unpack(data)[0]
    return outcome


def _wait_gone(connections: Sequence[socket.socket]) -> int:
    """Block until one of the connections is closed by its peer; return its place in the list."""
    poll = select.poll()
    places = {connection.fileno(): place for place, connection in enumerate(connections)}
    if -1 in places:  # closed on this side, before anybody waited
        return places[-1]
    for descriptor in places:
        poll.register(descriptor, select.POLLRDHUP)
    while True:
        for descriptor, events in poll.poll():
            if events & _GONE:
                return places[descriptor]

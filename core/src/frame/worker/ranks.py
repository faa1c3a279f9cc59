"""A process's place in its group, and its ties to the other ranks: none in a group of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Union

from frame.wire.addresses import parse_address
from frame.wire.messages import LoadHead
from frame.wire.records import Act, Record
from frame.worker.door import JOIN_SECONDS, Door, join
from frame.worker.link import FollowerLink, LeaderLink, LinkError, watch
from frame.worker.lockstep import ALONE, Leader, Lockstep

_CLOSE_SECONDS = 30.0
"""How long rank 0 waits for the others to close their models."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank of how many this process is."""

    rank: int = 0
    world_size: int = 1


def find_place(environ: Mapping[str, str]) -> Place:
    """Return what the launcher says in RANK and WORLD_SIZE; without them the group has one rank.

    Raises:
        ValueError: they are no numbers, or the rank is not within the size.
    """
    size = environ.get("WORLD_SIZE", "1")
    rank = environ.get("RANK", "0") if size != "1" else "0"
    place = Place(int(rank), int(size))
    if not 0 <= place.rank < place.world_size:
        raise ValueError(f"RANK={rank} is not within WORLD_SIZE={size}")
    return place


class Ranks:
    """What ties a rank to the others, from LOAD to the end.

    Invariants: no record is sent or awaited before all ranks joined; rank 0 closes its ends last.
    """

    def __init__(self, place: Place = Place(), *, token: str = "", door: Door | None = None) -> None:
        """Take a place.

        Args:
            token: the group's.
            door: where rank 0 of several listens; closed when all have joined.
        """
        self.place = place
        self.lockstep: Lockstep = ALONE
        self._token = token
        self._door = door
        self._link: Union[LeaderLink, FollowerLink, None] = None
        self._is_ending = False

    def join(self, head: LoadHead, lost: Callable[[int], None]) -> None:
        """Wait until the ranks have found each other.

        Args:
            lost: called from another thread with the number of a rank that is lost, until the end.

        Raises:
            LinkError: they have not; the message says who is missing.
        """
        if (head.rank, head.world_size) != (self.place.rank, self.place.world_size):
            asked = f"rank {head.rank} of {head.world_size}"
            raise LinkError(f"asked to be {asked}, am rank {self.place.rank} of {self.place.world_size}")
        if head.world_size == 1:
            return
        if self._door is not None:
            leader = LeaderLink(
                self._door.let_in(head.world_size, self._token, JOIN_SECONDS), head.stall_timeout
            )
            self._door.close()
            self._link, self.lockstep = leader, Leader(leader.send, leader.receive_outcomes)
        else:
            connection = join(parse_address(head.link), head.rank, self._token, JOIN_SECONDS)
            self._link = FollowerLink(connection, head.stall_timeout)
        watch(self._link.wait_lost, lambda rank: None if self._is_ending else lost(rank))

    def receive(self) -> Record:
        """Return rank 0's next record; not for rank 0. Raises as `FollowerLink.receive`."""
        assert isinstance(self._link, FollowerLink)
        return self._link.receive()

    def reply(self, outcome: int) -> None:
        """Tell rank 0 what came of its record; not for rank 0. Raises as `FollowerLink.send_outcome`."""
        assert isinstance(self._link, FollowerLink)
        self._link.send_outcome(outcome)

    def stop(self) -> None:
        """Tell the others, as rank 0, that there will be no more work."""
        self._is_ending = True
        self.lockstep.tell(Act.STOP)

    def close(self) -> None:
        """End in order, after the model was closed: rank 0 waits for the others."""
        self._is_ending = True
        if self._link is not None:
            self._link.close(_CLOSE_SECONDS)


def set_master(head: LoadHead) -> None:
    """Put into the environment where the ranks' own collectives meet, before any framework is imported."""
    if head.world_size > 1:
        os.environ["MASTER_PORT"] = str(head.master_port)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")

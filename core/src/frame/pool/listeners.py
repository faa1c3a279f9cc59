"""What a worker group speaks to: its model, and the channel of its worker or of all its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from frame.pool.channel import Segment
from frame.wire.frames import Frame

if TYPE_CHECKING:
    from frame.pool.group import WorkerGroup


class GroupListener(Protocol):
    """What a group tells its model; called on the loop's thread."""

    def group_loaded(self, group: WorkerGroup) -> None:
        """The group takes batches from now on."""

    def group_resized(self, group: WorkerGroup) -> None:
        """The group has other slots; batches that waited in its worker may have started."""

    def group_frame(self, group: WorkerGroup, frame: Frame, mapped: list[memoryview]) -> None:
        """An answer, a chunk or an end came."""


class BatchChannel(Protocol):
    """What takes messages to a worker, or to all ranks of one."""

    def send(self, segments: Sequence[Segment], descriptors: Sequence[int] = ()) -> None:
        """Write one message at once, or queue it."""

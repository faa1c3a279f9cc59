"""A group of several ranks in threads of the test: real sockets between them, models that note calls."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from frame.api import Buffer, Chunk, Done, Part, RequestError, Response, ResponseStream, SequenceModel
from frame.api import Model as AnyModel
from frame.wire.messages import RunHead
from frame.wire.records import Act
from frame.worker.follower import Follower
from frame.worker.link import FollowerLink, LeaderLink
from frame.worker.lockstep import Leader
from frame.worker.payloads import Payloads

from tests.unit.worker_rig import DEADLINE, Rig, jobs_of

TEXT = Response(properties={"content-type": "text/plain"})


class Calls:
    """What a model was asked for, in order."""

    def __init__(self) -> None:
        self.made: list[tuple[object, ...]] = []

    def note(self, *call: object) -> None:
        self.made.append(call)


class Streaming(AnyModel):
    """Answers by the first word of a body: `whole`, `error`, or `stream N` with N chunks.

    `broken N` refuses itself after N chunks, `torn N` raises then.
    """

    def __init__(self) -> None:
        self.calls = Calls()

    def predict(self, batch):
        self.calls.note("predict", [(request.id, bytes(request.data), request.seed) for request in batch])
        assert not any(request.is_cancelled() for request in batch)
        return [self._answer(request) for request in batch]

    def _answer(self, request):
        kind, _, count = bytes(request.data).partition(b" ")
        if kind == b"whole":
            return Response()
        if kind == b"error":
            return RequestError(400, "bad word")
        return ResponseStream(
            head=TEXT,
            chunks=self._chunks(request.id, kind, int(count)),
            close=lambda: self.calls.note("close", request.id),
        )

    def _chunks(self, name, kind, count):
        for number in range(count):
            self.calls.note("next", name, number)
            yield b"%d " % number
        self.calls.note("last", name)
        if kind == b"broken":
            raise RequestError(413, "too long")
        if kind == b"torn":
            message = "device lost"
            raise RuntimeError(message)


class Words(SequenceModel):
    """A word of each running job at a step; `refuse` and `crash` are not admitted.

    `before` is called with the number of each step.
    """

    def __init__(self, places: int = 3, before: Callable[[int], object] = lambda step: None) -> None:
        self.calls = Calls()
        self.places = places
        self.before = before
        self.steps = 0
        self.running: dict[int, list[bytes]] = {}
        self.chosen = 0

    def capacity(self):
        return self.places - len(self.running)

    def admit(self, job, request):
        self.calls.note("admit", job, bytes(request.data), request.seed)
        assert not request.is_cancelled()
        if request.data == b"refuse":
            raise RequestError(413, "prompt too long")
        if request.data == b"crash":
            message = "no such tokenizer"
            raise KeyError(message)
        self.running[job] = bytes(request.data).split()

    def step(self):
        self.before(self.steps)
        self.steps += 1
        self.calls.note("step", tuple(self.running))
        self.chosen = self.chosen * 31 + len(self.running)
        return [self._advance(job) for job in list(self.running)]

    def _advance(self, job):
        if not self.running[job]:
            del self.running[job]
            return Done(job)
        return Chunk(job=job, data=self.running[job].pop(0), head=TEXT)

    def cancel(self, job):
        self.calls.note("cancel", job)
        self.running.pop(job, None)

    def digest(self):
        return -self.chosen


class Rank:
    """A rank that follows, in a thread."""

    def __init__(self, model: AnyModel, connection: socket.socket, stall_timeout: float) -> None:
        self.model = model
        self.payloads = Payloads()
        self.error: Exception | None = None
        self.link = FollowerLink(connection, DEADLINE)
        self.follower = Follower(
            model, self.payloads, self.link.receive, self.link.send_outcome, stall_timeout=stall_timeout
        )
        self._connection = connection
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.follower.run()
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.error = error
            self.link.close()  # as its process's end would

    def join(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.link.close()
        self._connection.close()


class Group:
    """Rank 0 with a router's end, and the others."""

    def __init__(self, models: Sequence[AnyModel], stall_timeout: float, link_timeout: float) -> None:
        pairs = [socket.socketpair() for _ in models[1:]]
        self.link = LeaderLink([near for near, _ in pairs], link_timeout)
        self.leader = Leader(self.link.send, self.link.receive_outcomes)
        self.worker = Rig(models[0], slots=1, ends_on_error=True, lockstep=self.leader)
        self.ranks = [
            Rank(model, far, stall_timeout) for model, (_, far) in zip(models[1:], pairs, strict=True)
        ]
        self.models = models

    def run(
        self,
        jobs: dict[int, Buffer | Sequence[Part]],
        *,
        only_rank_0: bool = False,
        others_late: bool = False,
        **properties: str,
    ) -> int:
        """Send a batch to every rank, as the router does."""
        heads, bodies = jobs_of(jobs, properties)
        batch = self.worker.next_batch
        if others_late:
            self.worker.run(jobs, **properties)
        for rank in () if only_rank_0 else self.ranks:
            rank.payloads.add(RunHead(batch, heads), [memoryview(b"".join(bodies))])
        if not others_late:
            self.worker.run(jobs, **properties)
        return batch

    def end(self) -> None:
        """Drain rank 0, tell the others to stop, and wait for all."""
        self.worker.drain()
        self.worker.wait_drained()
        self.leader.tell(Act.STOP)
        for rank in self.ranks:
            rank.join()

    def close(self) -> None:
        self.worker.close()
        for rank in self.ranks:
            rank.close()
        self.link.close(DEADLINE)
        for rank in self.ranks:
            rank.join()

    def calls(self) -> list[list[tuple[object, ...]]]:
        """Return the calls of each rank's model."""
        return [model.calls.made for model in self.models]  # type: ignore[attr-defined]  # one of those above


def assert_in_step(made: Group) -> None:
    """Hold that all ranks made the same calls, and none failed."""
    first, *others = made.calls()
    assert all(calls == first for calls in others)
    assert all(rank.error is None for rank in made.ranks)
    assert all(len(rank.payloads) == 0 for rank in made.ranks)
    assert {rank.follower.progress for rank in made.ranks} == {made.leader.progress}


@contextmanager
def group(
    *models: AnyModel, stall_timeout: float = DEADLINE, link_timeout: float = DEADLINE
) -> Iterator[Group]:
    """Run a rank for each model while the block runs."""
    made = Group(models, stall_timeout, link_timeout)
    try:
        yield made
    finally:
        made.close()

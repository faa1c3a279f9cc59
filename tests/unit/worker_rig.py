"""The router's end of a worker that runs in threads of the test: real sockets, real slots, no process."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from frame.api import Buffer, Model, Part, Request, Response, SequenceModel
from frame.wire.messages import CancelHead, CreditHead, JobHead, Kind, RunHead, run_from_json
from frame.worker.channel import Channel, Message, PartReader, place_parts
from frame.worker.inbox import Inbox
from frame.worker.lockstep import ALONE, Lockstep
from frame.worker.sequences import SequenceDriver
from frame.worker.slots import Slot, Work, WorkQueue
from frame.worker.streams import JobTable

DEADLINE = 10.0


class Scripted(Model):
    """Answers as a function says, and remembers what it was given."""

    def __init__(self, answer: Callable[[Sequence[Request]], object]) -> None:
        self._answer = answer
        self.batches: list[list[str]] = []

    def predict(self, batch):
        self.batches.append([request.id for request in batch])
        return self._answer(batch)


def echo(request: Request) -> Response:
    """Answer a request with its own body."""
    return Response(properties={"for": request.id}, parts=(Part("data", bytes(request.data)),))


class Rig:
    """Sends what a router sends and reads what a worker answers."""

    def __init__(self, model: Model, *, slots: int, ends_on_error: bool, lockstep: Lockstep = ALONE) -> None:
        near, far = socket.socketpair()
        self._near, self._far = near, far
        self.router = Channel(near)
        self._worker = Channel(far)
        self.jobs = JobTable()
        self._inbox: WorkQueue = Inbox(self._read)
        self._slots = slots
        self._unread: deque[Message] = deque()
        self.next_batch = 1
        self.errors: list[Exception] = []
        runner = SequenceDriver if isinstance(model, SequenceModel) else Slot
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(
                    runner(
                        model,
                        self._worker,
                        self.jobs,
                        self._inbox,
                        ends_on_error=ends_on_error,
                        lockstep=lockstep,
                    ),
                ),
                daemon=True,  # a test that fails must not keep the process
            )
            for _ in range(slots)
        ]
        self._helper = threading.Thread(target=self._help, daemon=True)
        for thread in (*self._threads, self._helper):
            thread.start()

    # --- the worker's side --------------------------------------------------------------------

    def _read(self, timeout: float | None) -> list[Work | None]:
        """Do with each message what `Session` does."""
        found: list[Work | None] = []
        for kind, head, buffers in self._worker.read(timeout):
            if kind is Kind.RUN:
                run = run_from_json(head)
                self.jobs.add(job.id for job in run.jobs)
                found.append(Work(run, buffers))
            elif kind is Kind.CREDIT:
                self.jobs.grant(head["job"], head["count"])
            elif kind is Kind.CANCEL:
                self.jobs.cancel(head["jobs"])
            else:
                found += [None] * self._slots
        return found

    def _run(self, runner: Slot | SequenceDriver) -> None:
        try:
            runner.run()
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.errors.append(error)

    def _help(self) -> None:
        try:
            self._inbox.help()
        except OSError:
            return  # the rig was closed

    # --- the router's side --------------------------------------------------------------------

    def run(self, jobs: dict[int, Buffer | Sequence[Part]], **properties: str) -> int:
        """Send jobs as one batch and return its number; a body alone is the part `data`."""
        heads, bodies = jobs_of(jobs, properties)
        batch, self.next_batch = self.next_batch, self.next_batch + 1
        self.router.send(Kind.RUN, RunHead(batch, heads), bodies)
        return batch

    def grant(self, job: int, count: int) -> None:
        self.router.send(Kind.CREDIT, CreditHead(job, count))

    def cancel(self, *jobs: int) -> None:
        self.router.send(Kind.CANCEL, CancelHead(list(jobs)))

    def drain(self) -> None:
        self.router.send(Kind.DRAIN, {})

    def next(self) -> Message:
        """Return the next message of the worker."""
        deadline = time.monotonic() + DEADLINE
        while not self._unread:
            self._unread += self.router.read(max(0.0, deadline - time.monotonic()))
            assert self._unread or time.monotonic() < deadline, "the worker sent nothing"
        return self._unread.popleft()

    def until(self, is_last: Callable[[Message], bool]) -> list[Message]:
        """Return the messages up to one that is the last."""
        found = [self.next()]
        while not is_last(found[-1]):
            found.append(self.next())
        return found

    def batch_end(self, batch: int) -> list[Message]:
        """Return the messages up to the end of a batch."""
        return self.until(lambda message: ends(message, batch))

    def wait_drained(self) -> None:
        """Wait until every slot has ended."""
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def close(self) -> None:
        self.drain()
        self.wait_drained()
        self._near.close()
        self._helper.join(DEADLINE)
        assert not self._helper.is_alive()
        self._far.close()


def jobs_of(
    jobs: dict[int, Buffer | Sequence[Part]], properties: dict[str, str]
) -> tuple[list[JobHead], list[Buffer]]:
    """Return the heads of jobs and the bytes of their parts."""
    heads: list[JobHead] = []
    bodies: list[Buffer] = []
    large = 0
    for job, content in jobs.items():
        parts = [Part("data", content)] if isinstance(content, Buffer) else list(content)
        placed = place_parts(parts, large)
        large += sum(index >= 0 for _, _, index in placed)
        heads.append(JobHead(job, f"request-{job}", dict(properties), placed))
        bodies += [part.data for part in parts]
    return heads, bodies


@contextmanager
def rig(model: Model, *, slots: int = 1, ends_on_error: bool = False) -> Iterator[Rig]:
    """Run a model's slots while the block runs; every one must end when told to."""
    made = Rig(model, slots=slots, ends_on_error=ends_on_error)
    try:
        yield made
    finally:
        made.close()


def ends(message: Message, batch: int) -> bool:
    return message.kind is Kind.ANSWERS and message.head["batch"] == batch and message.head["end"] is not None


def answers(messages: Sequence[Message]) -> list[tuple[int, int, str, bytes]]:
    """Return job, status, message and body of each whole answer, in order."""
    found = []
    for message in messages:
        if message.kind is Kind.ANSWERS:
            reader = PartReader(message.buffers)
            for head in message.head["jobs"]:
                body = b"".join(bytes(part.data) for part in reader.take(head["parts"]))
                found.append((head["id"], head["status"], head["message"], body))
    return found


def stream_of(messages: Sequence[Message], job: int) -> list[tuple[Kind, bytes | str]]:
    """Return the kinds of one job's stream messages with their bytes (of an end: its error)."""
    found: list[tuple[Kind, bytes | str]] = []
    for message in messages:
        key = "id" if message.kind is Kind.STREAM else "job"
        if message.kind is Kind.ANSWERS or message.head[key] != job:
            continue
        if message.kind is Kind.END:
            found.append((Kind.END, message.head["error"]))
        else:
            body, *mapped = message.buffers
            found.append((message.kind, bytes(mapped[0] if mapped else body)))
    return found


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        pause.wait(0.005)

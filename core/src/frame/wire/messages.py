"""The messages between router and workers: their kinds, and their heads as dataclasses and plain JSON.

The router encodes and decodes heads with msgspec, which knows dataclasses; the worker with `json` and the
functions at the end, because a foreign interpreter has nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

PartHead = tuple[str, int, int]
"""Key, length in bytes, and index of the descriptor that carries the part, -1 when it is in the body."""
INITIAL_CREDITS = 16
"""Chunks that a worker may send of one stream before the client took the first."""


class Kind(IntEnum):
    """Kinds of messages. 1-15 go to the worker, 16-31 come from it, from ANSWERS on about jobs."""

    LOAD = 1
    RUN = 2
    CREDIT = 3
    CANCEL = 4
    DRAIN = 5
    SLOTS = 6
    PING = 7
    HELLO = 16
    STAGE = 17
    LOADED = 18
    LOAD_FAILED = 19
    SLOTS_READY = 20
    PONG = 21
    ANSWERS = 22
    STREAM = 23
    CHUNK = 24
    END = 25


@dataclass(slots=True, kw_only=True)
class LoadHead:
    """Everything a worker needs to import its engine and load its model.

    `properties` are all options and arguments as strings; `options_target` names the dataclass that types the
    engine's own. `slots` is how many batches the router would like to overlap now, `max_slots` the most ever.
    `padding` is a `Padding` as plain JSON. `link` is where the group's ranks meet (see `HelloHead`) and
    `master_port` the port of MASTER_PORT, "" and 0 in a group of one rank; `stall_timeout` is how many
    seconds a rank waits for another one, or for the payload of a batch that another one runs.
    """

    engine_target: str
    options_target: str
    name: str
    version: str | None
    path: str
    model_file: str | None
    properties: dict[str, str]
    batch_size: int
    devices: list[str]
    rank: int
    world_size: int
    threads: int
    slots: int
    max_slots: int
    shares_model: bool | None = None
    padding: dict[str, Any] | None = None
    link: str = ""
    master_port: int = 0
    stall_timeout: float = 10.0


@dataclass(slots=True)
class JobHead:
    """One job of a RUN message; its parts lie in the message in this order."""

    id: int
    request_id: str
    properties: dict[str, str]
    parts: list[PartHead]
    codec: str = ""


@dataclass(slots=True)
class RunHead:
    """Jobs for one slot as one batch, or for a `SequenceModel` to admit one by one."""

    batch: int
    jobs: list[JobHead]


@dataclass(slots=True)
class CreditHead:
    """The client took `count` chunks of the job's stream."""

    job: int
    count: int


@dataclass(slots=True)
class CancelHead:
    """Nobody waits for these jobs any more."""

    jobs: list[int]


@dataclass(slots=True)
class SlotsHead:
    """Be so many slots; `change` numbers these messages, from 1."""

    change: int
    slots: int


@dataclass(slots=True, kw_only=True)
class HelloHead:
    """The first message of a worker, or of each rank of a group.

    `host` is its host's name. Rank 0 of several says in `link` where it listens for the others (`unix:/path`
    or `tcp:host:port`), and in `master_port` a port that is free on its host.
    """

    token: str
    pid: int
    rank: int
    python: str
    world_size: int = 1
    host: str = ""
    link: str = ""
    master_port: int = 0


@dataclass(slots=True)
class PongHead:
    """A sign of life. `progress` counts what the rank has begun and ended; equal on ranks that keep up."""

    progress: int = 0


@dataclass(slots=True)
class StageHead:
    """What the worker is doing until it is loaded.

    It may take `allowed` seconds for that beside the load's.
    """

    stage: str
    allowed: float = 0.0


@dataclass(slots=True)
class SpecHead:
    """A `TensorSpec`."""

    name: str
    dtype: str
    shape: list[int] | None


@dataclass(slots=True, kw_only=True)
class LoadedHead:
    """The model is ready.

    `concurrency` is the most slots that this copy allows. `capacity` > 0 for a `SequenceModel`: jobs it runs
    at once. `rss_bytes` is the resident memory of the process, 0 when the system does not say. `self_check`
    is what a check of the loaded model found.
    """

    slots: int
    concurrency: int = 1
    capacity: int = 0
    rss_bytes: int = 0
    inputs: list[SpecHead] | None = None
    outputs: list[SpecHead] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    self_check: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class SlotsReadyHead:
    """A slot was started or left.

    `slots` threads may run a batch now, those included that leave after the one they run; `wanted` will when
    all is done. With `error` set one could not be started, and is not wanted any more.
    `change` is the last one the worker knows.
    """

    change: int
    slots: int
    wanted: int
    error: str = ""


@dataclass(slots=True, kw_only=True)
class LoadFailedHead:
    """The model did not load; `status` 507 means memory."""

    stage: str
    status: int
    message: str


@dataclass(slots=True, kw_only=True)
class AnswerHead:
    """One job's whole answer.

    `type_name` is set for errors; without parts the router writes the error JSON.
    """

    id: int
    status: int
    message: str
    properties: dict[str, str] = field(default_factory=dict)
    parts: list[PartHead] = field(default_factory=list)
    type_name: str = ""


@dataclass(slots=True, kw_only=True)
class BatchEnd:
    """The slot is free again; where the batch's seconds went."""

    decode: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    calls: int = 1


@dataclass(slots=True, kw_only=True)
class AnswersHead:
    """Answers of one batch; with `end` set nothing more comes of that batch."""

    batch: int
    jobs: list[AnswerHead]
    end: BatchEnd | None = None


@dataclass(slots=True)
class ChunkHead:
    """The next piece of a job's stream, in the body."""

    job: int


@dataclass(slots=True)
class EndHead:
    """A job's stream ended; `error` is what broke it, "" when it is complete."""

    job: int
    error: str = ""


# --- the worker's half: plain JSON objects ----------------------------------------------------


def run_from_json(plain: dict[str, Any]) -> RunHead:
    """Build a `RunHead` from parsed JSON."""
    return RunHead(plain["batch"], [JobHead(**job) for job in plain["jobs"]])


def to_json(value: object) -> object:
    """Give `json.dumps(default=…)` the fields of one of this module's dataclasses."""
    names = getattr(type(value), "__slots__", None)
    if names is None:
        raise TypeError(f"{type(value).__name__} is no message")
    return {name: getattr(value, name) for name in names}

"""What a worker group needs to know: how to start it, what to load, how long each step may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from frame.contract.engines import EngineSpec
from frame.pool.deaths import OutOfMemoryKills
from frame.wire.padding import Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Everything about the groups of one model on one device; times in seconds.

    Attributes:
        engine: the engine's spec; `options` its typed options.
        properties: every option and argument as strings, for the model.
        interpreter: the Python executable of the workers.
        environment: extra variables (`option.env`).
        start_timeout: from the process's start to its hello.
        load_timeout: from hello to loaded.
        predict_timeout: a batch that runs longer is a hang.
        drain_timeout: what running batches get when the group is told to end.
        shares_model: None lets the loaded model decide.
        padding: how requests of different lengths are brought to one; None: they are not.
        ranks: processes of a group, each with a full set of messages; the answers of rank 0 count.
        listen_address: where the router listens for ranks on other hosts; None: a private Unix socket.
        stall_timeout: a rank that is behind the others for so long ends the group.
        passes_answers_on: the router sends answers on to other models, large parts without a copy.
    """

    name: str
    version: str | None
    path: str
    model_file: str | None
    engine: EngineSpec
    options: object
    properties: Mapping[str, str]
    interpreter: str
    environment: Mapping[str, str]
    devices: tuple[str, ...] = ("cpu",)
    batch_size: int = 1
    threads: int = 1
    shares_model: bool | None = None
    retry_on_crash: bool = True
    padding: Padding | None = None
    ranks: int = 1
    listen_address: str | None = None
    stall_timeout: float = 10.0
    passes_answers_on: bool = False
    start_timeout: float = 60.0
    load_timeout: float = 240.0
    predict_timeout: float = 120.0
    drain_timeout: float = 10.0
    server_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_threads(self) -> int:
        """CPU threads that one group computes with."""
        return self.threads * self.ranks


@dataclass(slots=True, kw_only=True)
class Placement:
    """What a new group is asked to be: slots now, and the most it may ever get; `kills` are the router's."""

    key: int
    slots: int
    max_slots: int
    log_prefix: str
    kills: OutOfMemoryKills = field(default_factory=OutOfMemoryKills)

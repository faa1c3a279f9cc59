"""A model in real worker processes, without HTTP, for code that does not know asyncio."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, Self, TypeVar

import msgspec

from frame.cli.plans import Planner
from frame.cli.settings import CommandSettings, read_settings
from frame.config.settings import Source
from frame.contract.requests import Request
from frame.pool.budget import ByteBudget
from frame.pool.bundle import make_bundle
from frame.pool.cgroups import usable_cores
from frame.pool.environ import worker_environment
from frame.pool.heads import load_head
from frame.pool.jobs import Answer, Job, StreamBrokenError
from frame.pool.manager import WorkloadManager
from frame.pool.payload import Payload
from frame.pool.plan import ModelPlan
from frame.store.catalog import model_reader
from frame.store.startup import StartupEntry
from frame.store.urls import ModelUrl
from frame.wire.messages import HelloHead

NAME = "tried"
"""What the model is called."""
_CLOSE_SECONDS = 10.0
_BAD = 400
_CODEC = "frame.worker.codecs.djl"
_BUDGET = 1 << 30
ResultT = TypeVar("ResultT")


class WorkbenchError(Exception):
    """The model cannot be used: the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of a request.

    Attributes:
        message: of an error.
        chunks: the pieces of a stream; None when the answer was none.
        is_whole: False: the stream broke off.
        batch_size: requests of the batch that it was answered in.
        inference: seconds in the model, of the whole batch.
    """

    status: int
    properties: Mapping[str, str]
    body: bytes
    message: str = ""
    chunks: tuple[bytes, ...] | None = None
    is_whole: bool = True
    batch_size: int = 0
    inference: float = 0.0

    @property
    def is_error(self) -> bool:
        """Whether the request failed, or its stream broke off."""
        return self.status >= _BAD or not self.is_whole

    @property
    def content_type(self) -> str:
        """The answer's content type; empty when it has none."""
        return next((value for key, value in self.properties.items() if key.lower() == "content-type"), "")


@dataclass(slots=True)
class _Parts:
    """What a workbench is made of."""

    settings: CommandSettings
    plan: ModelPlan
    folder: tempfile.TemporaryDirectory[str]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)


class Workbench:
    """One model, loaded by its engine as `frame serve` would; use it as a context manager.

    Raises from `with`: `WorkbenchError`, the model's configuration is wrong or it does not load.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        engine: str | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        batch_size: int = 1,
        device: str = "cpu",
        timeout: float = 120.0,
    ) -> None:
        """Take a model.

        Args:
            model: its folder, or a single file.
            engine: its engine; None: as its files say.
            settings: more keys of serving.properties.
            timeout: seconds for a load, and for each answer.
        """
        given = {
            "batch_size": str(batch_size), "max_batch_delay": "0", "load_on_devices": device,
            "minWorkers": "1", "maxWorkers": "1", "load_on_demand": "false", "batching": "fixed",
            "option.model_loading_timeout": str(timeout), "option.predict_timeout": str(timeout),
        }  # fmt: skip
        self._model = Path(model).absolute()
        self._engine = engine
        self._given = {**given, **settings}
        self._timeout = timeout
        self._parts: _Parts
        self._manager: WorkloadManager
        self._thread: threading.Thread
        self._ids = iter(range(1, 1 << 62))

    # --- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._parts = self._plan()
        self._thread = threading.Thread(target=self._run, name="frame-workbench")
        self._thread.start()
        try:
            self._call(self._start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _plan(self) -> _Parts:
        folder = tempfile.TemporaryDirectory(prefix="frame-workbench-")
        environ = {**os.environ, "SERVING_CACHE_DIR": f"{folder.name}/cache"}
        settings = read_settings(
            store=None, store_flag=None, models=(), config_file=None, host=None, port=0,
            http_server=None, lenient=False, environ=environ,
        )  # fmt: skip
        engines = settings.plugins.engines
        reader = model_reader(settings.server, engines, environ, lenient=False)
        url = ModelUrl(
            text=str(self._model), name=NAME, version=None, engine=self._engine, devices=None,
            location=str(self._model), arguments=MappingProxyType(self._given),
        )  # fmt: skip
        entry = reader.read(StartupEntry(url, Source("flag", "workbench")))
        planner = Planner({spec.name: spec for spec in engines}, environ, usable_cores())
        planned = planner.plan_entry(entry)
        if planned.plan is None:
            folder.cleanup()
            raise WorkbenchError("; ".join(planned.entry.problems) or f"{self._model} is no model")
        return _Parts(settings, planned.plan, folder)

    def _run(self) -> None:
        asyncio.set_event_loop(self._parts.loop)
        self._parts.loop.run_forever()
        self._parts.loop.close()

    async def _start(self) -> None:
        parts = self._parts
        self._manager = WorkloadManager(
            [parts.plan],
            [],
            ByteBudget(_BUDGET),
            cache=Path(parts.folder.name, "cache"),
            cpu_threads=usable_cores(),
        )
        self._running = asyncio.ensure_future(self._manager.run())
        await self._manager.settled()
        pool = self._manager.find(NAME, None)
        if pool.status == "FAILED":
            written = "\n".join(pool.log_tail[-20:])
            raise WorkbenchError(f"{pool.reason}\n{written}")

    async def _end(self) -> None:
        if hasattr(self, "_manager"):
            await self._manager.close(_CLOSE_SECONDS)
            await self._running

    def _stop(self) -> None:
        loop = self._parts.loop
        self._call(self._end())
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        self._parts.folder.cleanup()

    def _call(self, work: Coroutine[Any, Any, ResultT], seconds: float | None = None) -> ResultT:
        future: Future[ResultT] = asyncio.run_coroutine_threadsafe(work, self._parts.loop)
        return future.result(seconds or self._timeout + _CLOSE_SECONDS)

    # --- what is tried ------------------------------------------------------------------------

    @property
    def plan(self) -> ModelPlan:
        """What the model was planned as."""
        return self._manager.find(NAME, None).plan

    @property
    def pids(self) -> list[int]:
        """The processes of its workers, rank by rank."""
        groups = self._manager.find(NAME, None).groups.values()
        return [rank.pid for group in groups for rank in group.ranks]

    def describe(self) -> str:
        """Return its engine, the memory of its process, and what it takes and gives, in words."""
        pool = self._manager.find(NAME, None)
        words = [f"engine {pool.plan.group.engine.name}", f"{pool.copy_bytes >> 20} MiB"]
        for group in pool.groups.values():
            if group.signature is not None:
                both = (group.signature.inputs, group.signature.outputs)
                taken, given = (", ".join(f"{item.name}:{item.dtype}" for item in specs) for specs in both)
                words.append(f"{taken} -> {given}")
        return ", ".join(words)

    def ask(self, *requests: Request) -> list[Answered]:
        """Answer requests that come together: in one batch, as far as `batch_size` goes."""
        return self._call(self._ask(requests))

    def ask_in_turn(self, *requests: Request) -> list[Answered]:
        """Answer requests one after the other, each in a batch of its own."""
        return [answer for request in requests for answer in self.ask(request)]

    def leave_stream(self, request: Request) -> int:
        """Ask, take one chunk of the answer, and go away; return the status. The model hears of it."""
        return self._call(self._leave(request))

    def kill(self) -> None:
        """Kill every process of the model's workers."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    async def _ask(self, requests: Sequence[Request]) -> list[Answered]:
        pool = self._manager.find(NAME, None)
        jobs = [self._job(request) for request in requests]
        for job in jobs:
            pool.submit(job)  # all in one turn of the loop: what comes together runs together
        # Side by side: a stream that nobody reads holds its slot, which another of them may wait for.
        return await asyncio.gather(*(self._answered(job) for job in jobs))

    async def _leave(self, request: Request) -> int:
        pool = self._manager.find(NAME, None)
        job = self._job(request)
        pool.submit(job)
        answer = await job.answer
        if answer.stream is not None:
            await answer.stream.next(self._timeout)
            answer.stream.close()
        return answer.status

    def _job(self, request: Request) -> Job:
        now = monotonic()
        properties = {**request.properties}
        if request.seed:
            properties.setdefault("x-frame-seed", str(request.seed))
        parts = [(part.key, Payload(bytes(part.data))) for part in request.parts]
        for _, payload in parts:
            payload.finish()
        return Job(
            id=next(self._ids), request_id=request.id, properties=properties, parts=parts,
            codec="" if request.codec == _CODEC else request.codec, priority=3, arrived=now,
            deadline=now + self._timeout, answer=asyncio.get_running_loop().create_future(),
            size_bytes=sum(payload.size_bytes for _, payload in parts),
        )  # fmt: skip

    async def _answered(self, job: Job) -> Answered:
        answer: Answer = await job.answer
        chunks: list[bytes] | None = None
        is_whole = True
        if answer.stream is not None:
            chunks = []
            try:
                while (chunk := await answer.stream.next(self._timeout)) is not None:
                    chunks.append(bytes(chunk))
            except StreamBrokenError:
                is_whole = False
            finally:
                answer.stream.close()
        return Answered(
            status=answer.status,
            properties=answer.properties,
            body=bytes(answer.body or b"") if chunks is None else b"".join(chunks),
            message=answer.message if answer.type_name else "",
            chunks=None if chunks is None else tuple(chunks),
            is_whole=is_whole,
            batch_size=job.batch_size,
            inference=job.inference,
        )


def run_cycles(bench: Workbench, requests: Sequence[Request], cycles: int = 3) -> list[dict[str, Any]]:
    """Load, use and close a bench's model again and again in one process; return what each cycle left.

    Raises:
        WorkbenchError: the process failed; the message has what it wrote last.
    """
    plan = bench.plan
    settings = replace(plan.group, ranks=1)
    hello = HelloHead(token="", pid=0, rank=0, python="")
    given = {
        "load": msgspec.to_builtins(load_head(settings, 1, 1, hello, hello)),
        "requests": [_plain(request) for request in requests],
        "cycles": cycles,
    }
    with tempfile.TemporaryDirectory(prefix="frame-trial-") as folder:
        bundle = make_bundle(Path(folder, "path"), settings.engine)
        environment = worker_environment(
            settings.server_environment,
            bundle=str(bundle),
            extra=settings.environment,
            threads=settings.threads,
        )
        done = subprocess.run(
            [settings.interpreter, "-m", "frame.worker.trial"],
            input=json.dumps(given),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=cycles * plan.config.model_loading_timeout,
            check=False,
        )
    if done.returncode != 0:
        raise WorkbenchError(f"the trial ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _plain(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "properties": dict(request.properties),
        "parts": [(part.key, base64.b64encode(bytes(part.data)).decode()) for part in request.parts],
        "seed": request.seed,
    }

"""A workflow at work: its steps are requests to its models, each with the bytes of the one before."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Union

from frame.config.workflows import FUNCTIONS
from frame.errors import CapacityError, FrameError, ModelNotReadyError
from frame.http.time_limits import time_limit
from frame.policy.quarantine import Quarantine
from frame.policy.workflow import INPUT, Call, Expression, Many, Ref
from frame.pool.budget import ByteBudget
from frame.pool.jobs import Answer, Job, JobStream, StreamBrokenError, StreamStalledError
from frame.pool.metrics import ModelMetrics
from frame.pool.model import ModelPool
from frame.pool.open_jobs import OpenJobs
from frame.pool.payload import Payload
from frame.pool.quarantine import check_quarantine
from frame.pool.workflow_plan import WorkflowPlan
from frame.wire.calls import ARGUMENTS_PROPERTY, BY_POSITION_PROPERTY, FUNCTION_PROPERTY, OWN_PROPERTIES

_log = logging.getLogger(__name__)
STEP_HEADER = "x-frame-workflow-step"
"""Which step failed, with an answer that is its."""
_TENSORS = "tensor/ndlist"
"""What models and functions pass on to each other."""
_FORMATS = frozenset({"application/json", "tensor/ndlist", "tensor/npz", "tensor/safetensors"})
"""Content types of requests that an answer is written in when the client says nothing."""
_OF_THE_BODY = frozenset(
    {"content-type", "content-length", "content-encoding", "accept", "transfer-encoding"}
)
_BAD = 400


@dataclass(frozen=True, slots=True)
class Value:
    """What a step made, or the request: the content type of its last part, and its parts."""

    content_type: str
    parts: Sequence[tuple[str, Payload]]


Values = Union[Value, "list[Values]"]


class _StepFailedError(Exception):
    """A step answered with an error, which is the workflow's answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


class WorkflowPool:
    """Takes requests as a model's pool does, and asks the pools of its models.

    Invariant: an admitted job ends once; when it does, no step of it runs any more, and its bytes are free.
    """

    def __init__(
        self, plan: WorkflowPlan, members: Mapping[str, ModelPool], budget: ByteBudget, ids: Iterator[int]
    ) -> None:
        """Run `plan` on `members`, by the names that the workflow gives them."""
        self.plan = plan
        self.members = members
        self.metrics = ModelMetrics()
        self.quarantine = Quarantine(0.0)
        self.is_closing = False
        self.budget = budget
        self.ids = ids
        self.open_jobs = OpenJobs(self.metrics, None, monotonic)
        self._runs: dict[int, asyncio.Task[None]] = {}

    @property
    def status(self) -> Literal["PENDING", "READY", "FAILED"]:
        """The worst of its models'."""
        states = {pool.status for pool in self.members.values()}
        return "FAILED" if "FAILED" in states else "PENDING" if "PENDING" in states else "READY"

    async def settled(self) -> dict[str, str]:
        """Wait until each model has loaded or failed; return why those failed, by name."""
        for pool in self.members.values():
            await pool.settled.wait()  # model_loading_timeout bounds it
        failed = {name: pool for name, pool in self.members.items() if pool.status == "FAILED"}
        return {name: pool.reason or "" for name, pool in failed.items()}

    def check_ready(self) -> None:
        """Raise `ModelNotReadyError` unless requests are taken."""
        if self.is_closing:
            raise ModelNotReadyError(f"Model is shutting down: {self.plan.name}")
        for pool in self.members.values():
            pool.check_ready()

    def submit(self, job: Job) -> None:
        """Run a job's steps.

        Raises:
            ModelNotReadyError: one of the models takes no requests.
            CapacityError: the queue of one is full.
        """
        self.check_ready()
        self.open_jobs.add(job)
        job.dispatched = monotonic()
        run = _Run(self, job)
        task = asyncio.get_running_loop().create_task(run.run())
        self._runs[job.id] = task
        task.add_done_callback(lambda _: self._ended(job, run))

    def _ended(self, job: Job, run: _Run) -> None:
        del self._runs[job.id]
        run.close()  # here, since a task that is cancelled before its first step runs nothing

    def cancel(self, job: Job) -> None:
        """Drop a job whose client went away, with the steps that run."""
        if self.open_jobs.cancel(job):
            self._runs[job.id].cancel()

    def give_up(self, job: Job) -> None:
        """Treat the batch of the step whose stream stalled as a hang."""
        if job.give_up is not None:
            job.give_up()

    async def close(self, timeout: float) -> None:  # the wait is on several things
        """Take no more requests, and finish those that are here within `timeout` seconds."""
        self.is_closing = True
        await self.open_jobs.wait_until_none(timeout)
        message = f"Model is shutting down: {self.plan.name}"
        for job in list(self.open_jobs):
            self.open_jobs.finish(job, Answer(status=503, type_name="ModelNotReadyError", message=message))
        running = list(self._runs.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=timeout)


Served = Union[ModelPool, WorkflowPool]
"""What takes requests."""


class _Run:
    """One request's way through the steps."""

    def __init__(self, pool: WorkflowPool, job: Job) -> None:
        self._pool = pool
        self._job = job
        self._input = Value(job.properties.get("content-type", ""), job.parts)
        self._base = {
            key: value
            for key, value in job.properties.items()
            if key.lower() not in _OF_THE_BODY and key.lower() not in OWN_PROPERTIES
        }
        self._trace, job.trace = job.trace, None  # each step has a place of its own below it
        self._values: dict[str, asyncio.Task[Values]] = {}
        self._payloads: list[Payload] = []
        self._held = 0
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Answer the job."""
        job = self._job
        try:
            answer = await self._answer()
        except Exception:  # noqa: BLE001  # fault line: around one request's steps
            _log.exception("workflow_failed workflow=%s request=%s", self._pool.plan.name, job.request_id)
            message = f"Internal error; see {job.request_id} in the server's log."
            answer = Answer(status=500, message=message, type_name="InternalServerError")
        job.stream = answer.stream
        self._pool.open_jobs.finish(job, answer)

    def close(self) -> None:
        """Free what the steps made; called once, when no step runs any more."""
        self._job.close()
        for payload in self._payloads:
            payload.close()
        self._pool.budget.give_back(self._held)

    async def _answer(self) -> Answer:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                final = self._pool.plan.graph.final
                if isinstance(final, Ref):
                    answer = _passed_on(self._input)
                else:
                    _, _, answer = await self._ask(final, is_final=True)
        except* (_StepFailedError, FrameError) as errors:
            answer = _worded(_first(errors))
        return answer

    # --- values -------------------------------------------------------------------------------

    async def _evaluate(self, expression: Expression) -> Values:
        """Return what an expression is; that of a name is computed once."""
        if isinstance(expression, Call):
            return await self._keep(expression)
        if isinstance(expression, Many):
            return await self._all(expression.items)
        if expression.name == INPUT:
            return self._input
        task = self._values.get(expression.name)
        if task is None:
            step = self._pool.plan.graph.steps[expression.name]
            task = self._values[expression.name] = self._tasks.create_task(self._evaluate(step))
        return await task

    async def _all(self, expressions: Sequence[Expression]) -> list[Values]:
        """Compute several expressions side by side."""
        if len(expressions) == 1:
            return [await self._evaluate(expressions[0])]
        tasks = [self._tasks.create_task(self._evaluate(item)) for item in expressions]
        return [await task for task in tasks]

    async def _keep(self, call: Call) -> Value:
        """Run a step that is not the last, and keep what it made until the end."""
        pool, job, answer = await self._ask(call, is_final=False)
        if answer.stream is not None:
            payload = await self._collect(answer.stream, pool, job, call.target)
        else:
            body = answer.body or b""
            self._hold(len(body))
            payload = Payload.of_answer(body)
            self._payloads.append(payload)
        types = (value for key, value in answer.properties.items() if key.lower() == "content-type")
        return Value(next(types, ""), [("data", payload)])

    async def _collect(self, stream: JobStream, pool: ModelPool, job: Job, name: str) -> Payload:
        payload = Payload()
        self._payloads.append(payload)
        try:
            while (chunk := await stream.next(max(0.001, job.deadline - monotonic()))) is not None:
                self._hold(len(chunk))
                payload.add(bytes(chunk))
        except StreamStalledError as error:
            pool.give_up(job)
            raise self._failed(name, _lost(error, "PredictTimeoutError")) from error
        except StreamBrokenError as error:
            raise self._failed(name, _lost(error, "WorkerDiedError")) from error
        finally:
            stream.close()
        payload.finish()
        return payload

    def _hold(self, size_bytes: int) -> None:
        if not self._pool.budget.take(size_bytes):
            raise CapacityError("too many bytes are waiting (max_queued_bytes)")
        self._held += size_bytes

    # --- steps --------------------------------------------------------------------------------

    async def _ask(self, call: Call, *, is_final: bool) -> tuple[ModelPool, Job, Answer]:
        """Have a model, or a function, answer.

        Raises:
            _StepFailedError: it answered with an error.
            FrameError: it takes no requests.
        """
        arguments = await self._all(call.arguments)
        pool = self._pool.members[FUNCTIONS if call.kind == "function" else call.target]
        job = self._step(call, pool, arguments, is_final=is_final)
        try:
            if pool.quarantine:
                await check_quarantine(pool.quarantine, job, monotonic)
            pool.submit(job)
        except BaseException:
            job.close()
            if job.trace is not None:
                job.trace.finish(job)
            raise
        try:
            answer = await job.answer
        except asyncio.CancelledError:
            pool.cancel(job)
            raise
        self._job.inference += job.inference
        self._job.batch_size = max(self._job.batch_size, job.batch_size)
        if answer.type_name or answer.status >= _BAD:
            raise self._failed(call.target, answer)
        if is_final and answer.stream is not None:
            self._job.give_up = lambda: pool.give_up(job)
        return pool, job, answer

    def _failed(self, name: str, answer: Answer) -> _StepFailedError:
        answer.properties = {**answer.properties, STEP_HEADER: name}
        return _StepFailedError(answer)

    def _step(self, call: Call, pool: ModelPool, arguments: Sequence[Values], *, is_final: bool) -> Job:
        """Return the request of one step."""
        whole = self._job
        limit = time_limit(None, pool.plan.config)
        now = monotonic()
        is_limited = now + limit.seconds < whole.deadline
        properties = self._properties(call, pool, arguments, is_final=is_final)
        trace = self._trace.step(call.target) if self._trace is not None else None
        if trace is not None:
            properties |= trace.properties()
        flat = [part for argument in arguments for value in _flat(argument) for part in value.parts]
        job = Job(
            id=next(self._pool.ids),
            request_id=whole.request_id,
            properties=properties,
            parts=[],
            codec=whole.codec,
            priority=whole.priority,
            arrived=now,
            deadline=now + limit.seconds if is_limited else whole.deadline,
            limited_by=limit.source if is_limited else whole.limited_by,
            answer=asyncio.get_running_loop().create_future(),
            size_bytes=sum(payload.size_bytes for _, payload in flat),
            trace=trace,
        )
        try:
            for key, payload in flat:
                job.parts.append((key, payload.copy()))
        except OSError as error:  # no descriptor is left
            job.close()
            raise CapacityError("too many large requests are waiting") from error
        return job

    def _properties(
        self, call: Call, pool: ModelPool, arguments: Sequence[Values], *, is_final: bool
    ) -> dict[str, str]:
        properties = dict(self._base)
        accept = self._accept() if is_final else _TENSORS if _has_tensors(pool, call) else ""
        if accept:
            properties["accept"] = accept
        if call.kind == "function":
            properties[FUNCTION_PROPERTY] = call.target
            properties[ARGUMENTS_PROPERTY] = json.dumps([_described(value) for value in arguments])
            return properties
        (value,) = arguments
        assert isinstance(value, Value)
        properties["content-type"] = value.content_type
        if value is not self._input:
            properties[BY_POSITION_PROPERTY] = "true"
        return properties

    def _accept(self) -> str:
        """Return what the client wants: what it says, else the format that it sent itself."""
        asked = self._job.properties.get("accept", "")
        kind = self._input.content_type.partition(";")[0].strip().lower()
        return asked if asked not in {"", "*/*"} else kind if kind in _FORMATS else asked


def _has_tensors(pool: ModelPool, call: Call) -> bool:
    """Tell whether what answers writes tensors in the format that is asked for."""
    return call.kind == "function" or any(group.signature is not None for group in pool.groups.values())


def _described(value: Values) -> Any:
    if isinstance(value, list):
        return [_described(item) for item in value]
    return {"type": value.content_type, "parts": [key for key, _ in value.parts]}


def _lost(error: Exception, type_name: str) -> Answer:
    return Answer(status=503, message=str(error), type_name=type_name)


def _flat(value: Values) -> Iterator[Value]:
    if isinstance(value, Value):
        yield value
        return
    for item in value:
        yield from _flat(item)


def _passed_on(value: Value) -> Answer:
    """Return the request's body as an answer."""
    body = b"".join(value.parts[-1][1].read_segments()) if value.parts else b""
    properties = {"Content-Type": value.content_type} if value.content_type else {}
    return Answer(status=200, message="OK", properties=properties, body=body)


def _worded(error: BaseException) -> Answer:
    if isinstance(error, _StepFailedError):
        return error.answer
    assert isinstance(error, FrameError)
    return Answer(status=error.status, message=str(error), type_name=error.type_name)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the error of a group that came first."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found

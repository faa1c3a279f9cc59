"""Models as the JSON that GET /ping, /models and /models/{name} answer (djl-serving's management API)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from frame.api import Signature, TensorSpec
from frame.http.host import ModelView, WorkerGroupView, WorkerState, WorkerView, WorkflowView

Health = Literal["Healthy", "Unhealthy", "PENDING", "FAILED"]

_WORST_FIRST: tuple[Health, ...] = ("FAILED", "PENDING", "Unhealthy", "Healthy")
# DJL Serving knows READY and UNLOADING; STARTING and FAILED are Frame's, whose failed workers stay visible.
_WORKER_STATUS: dict[WorkerState, str] = {
    "starting": "STARTING",
    "ready": "READY",
    "busy": "READY",
    "draining": "UNLOADING",
    "failed": "FAILED",
}
_SECRET_WORDS = frozenset(
    {"token", "secret", "password", "passwd", "credential", "credentials", "pass", "apikey"}
)
_SECRET_ENDINGS = ("api_key", "access_key", "option.env")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEVICE = re.compile(r"([a-z]+)(\d+)?")
HIDDEN = "(hidden)"


def health_of(view: ModelView) -> Health:
    """Tell a model's health as DJL Serving words it: Unhealthy has fewer workers than its minimum."""
    if view.status != "READY":
        return view.status
    if view.is_asleep:
        return "Healthy"
    working = sum(worker.state in {"ready", "busy"} for group in view.groups for worker in group.workers)
    return "Healthy" if working >= sum(group.min for group in view.groups) else "Unhealthy"


def ping_body(views: Iterable[ModelView]) -> dict[str, dict[str, object]]:
    """Map each model to its health, the worst of its versions, with the reason when it is not Healthy."""
    body: dict[str, dict[str, object]] = {}
    worst: dict[str, Health] = {}
    for view in in_order(views):
        health = health_of(view)
        known = worst.get(view.name)
        if known is None or _WORST_FIRST.index(health) < _WORST_FIRST.index(known):
            worst[view.name] = health
            body[view.name] = {"status": health, "reason": None if health == "Healthy" else view.reason}
            if view.last_lines:
                body[view.name]["log"] = view.last_lines
    return body


def in_order(views: Iterable[ModelView]) -> list[ModelView]:
    """Sort by name, then by version; a model without a version comes first."""
    return sorted(views, key=lambda view: (view.name, view.version or ""))


def list_entry(view: ModelView) -> dict[str, object]:
    """One element of GET /models."""
    return {"modelName": view.name, "version": view.version, "modelUrl": view.url, "status": view.status}


def describe(view: ModelView) -> dict[str, object]:
    """One element of GET /models/{name}: DJL Serving's workflow of one model, with what Frame adds."""
    return {"workflowName": view.name, "version": view.version, "models": [_model(view)]}


def _model(view: ModelView) -> dict[str, object]:
    return {
        "modelName": view.name,
        "modelUrl": view.url,
        "engine": view.engine,
        "batchSize": view.batch_size,
        "maxBatchDelayMillis": view.max_batch_delay_ms,
        "maxIdleSeconds": view.max_idle_time,
        "queueSize": view.job_queue_size,
        "requestInQueue": view.requests_in_queue,
        "status": health_of(view),
        "reason": view.reason,
        "loadedAtStartup": view.loaded_at_startup,
        "signature": None if view.signature is None else _signature(view.signature),
        "selfCheck": view.self_check,
        "settings": _settings(view.settings),
        "log": view.log_tail if view.status == "FAILED" and view.log_tail else None,
        "workerGroups": [_group(group) for group in view.groups],
    }


def describe_workflow(view: WorkflowView, models: Iterable[ModelView]) -> dict[str, object]:
    """One element of GET /workflows/{name}: every model of a workflow, as `describe` shows one."""
    own = [item for item in models if item.name in view.models and item.version == view.version]
    return {
        "workflowName": view.name,
        "version": view.version,
        "workflowUrl": view.url,
        "status": view.status,
        "requests": view.requests,
        "models": [_model(item) for item in in_order(own)],
    }


def utc_text(moment: datetime) -> str:
    """Write an aware time as `2024-05-01T12:00:00.000Z`: DJL Serving's form, and truly UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _signature(signature: Signature) -> dict[str, object]:
    return {"inputs": _tensors(signature.inputs), "outputs": _tensors(signature.outputs)}


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in specs]


def _group(group: WorkerGroupView) -> dict[str, object]:
    workers = [_worker(worker) for worker in group.workers]
    device = _device(group.device)
    return {"device": device, "minWorkers": group.min, "maxWorkers": group.max, "workers": workers}


def _worker(worker: WorkerView) -> dict[str, object]:
    described: dict[str, object] = {
        "id": worker.id,
        "pid": worker.pid,
        "startTime": utc_text(worker.start_time),
        "status": _WORKER_STATUS[worker.state],
    }
    if worker.ranks:
        described["ranks"] = [
            {"rank": item.rank, "pid": item.pid, "host": item.host} for item in worker.ranks
        ]
    return described


def _device(name: str) -> dict[str, object]:
    """Split `gpu0` as DJL Serving shows it; a device without a number has id -1."""
    match = _DEVICE.match(name)
    kind, number = match.groups() if match else (name, None)
    return {"deviceType": kind, "deviceId": -1 if number is None else int(number)}


def _settings(settings: Mapping[str, tuple[str, str]]) -> dict[str, object] | None:
    shown: dict[str, object] = {
        key: {"value": HIDDEN if is_secret(key) else value, "source": source}
        for key, (value, source) in settings.items()
    }
    return shown or None


def is_secret(key: str) -> bool:
    """Tell whether a setting may hold a secret (`option.hf_token`, `keystore_pass`, `option.env`)."""
    words = {word.lower() for word in _WORDS.findall(key)}
    return not words.isdisjoint(_SECRET_WORDS) or key.lower().endswith(_SECRET_ENDINGS)

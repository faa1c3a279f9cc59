"""Makes folders of workflows for tests of a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from frame.testing import Server

from tests.process.probes import DEADLINE, JSON

STEPS = """
import hashlib

import numpy as np
from frame.api import Request, RequestError


def add_one(value):
    return {**value, "n": value["n"] + 1}


def total(values, given):
    return {"total": sum(value["n"] for value in values), "given": given["n"]}


def ids(raw: Request, other):
    return {"id": raw.id, "kind": raw.properties["content-type"], "other": other}


def large(value):
    return {"big": np.arange(value["size"], dtype=np.float32)}


def digest(raw: Request):
    return {"sha256": hashlib.sha256(raw.data).hexdigest(), "bytes": len(raw.data)}


def fail(value):
    raise RuntimeError("as it was told")


def refuse(value):
    raise RequestError(422, "not this one")


def words(value):
    return {"text": value}
"""


def put_workflow(
    folder: Path,
    workflow: Mapping[str, object],
    *,
    models: Mapping[str, Any] | None = None,
    functions: str = "",
    steps: str = STEPS,
    **more: object,
) -> Path:
    """Write a `workflow.json`; `functions` are names of `steps.py`, between spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steps.py").write_text(steps)
    content = {
        "models": models or {},
        "functions": {name: f"steps.py:{name}" for name in functions.split()},
        "workflow": workflow,
        **more,
    }
    (folder / "workflow.json").write_text(json.dumps(content))
    return folder


def echo(folder: Path, **options: object) -> dict[str, object]:
    """Return an echo model of a workflow in `folder`."""
    name = f"echo{len(list(folder.glob('echo*')))}" if folder.exists() else "echo0"
    (folder / name).mkdir(parents=True)
    (folder / name / "any").touch()
    return {"modelUrl": name, "engineName": "echo", "options": options, "minWorkers": 1}


def ask(server: Server, workflow: str, body: object, **headers: str) -> httpx.Response:
    """Ask a workflow with JSON."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.url}/predictions/{workflow}"
    return httpx.post(url, content=json.dumps(body), headers=JSON | given, timeout=DEADLINE)


def register(server: Server, path: Path, route: str = "workflows", **query: str) -> httpx.Response:
    """Register what is at a path."""
    return httpx.post(f"{server.url}/{route}", params={"url": str(path), **query}, timeout=2 * DEADLINE)

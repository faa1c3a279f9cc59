"""Shared by the tests of a running server: a handler that does as told, gates, raw connections, counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from frame.testing import Server

DEADLINE = 20.0  # seconds until a test gives up waiting
JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
ResultT = TypeVar("ResultT")

# Each request is a JSON object that says what to do; a batch is done one after the other.
OBEDIENT = '''
import os
import signal

from djl_python import Input, Output

calls = []


def obey(order, size):
    """Do what one request says."""
    calls.append(size)
    for path in order.get("gates", ()):
        with open(path) as gate:  # a named pipe: waits until the test opens and closes it
            gate.read()
    if "append" in order:
        with open(order["append"], "a") as seen:
            seen.write(order["name"] + "\\n")
    if "raise" in order:
        raise ValueError(order["raise"])
    if "kill" in order:
        os.kill(os.getpid(), signal.SIGKILL)
    if "print" in order:
        os.write(1, b"x" * order["print"])
    return {"name": order.get("name"), "pid": os.getpid(), "batch": size}


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    orders = [item.get_as_json() for item in batch]
    output = Output()
    for index, order in enumerate(orders):
        output.add(obey(order, len(orders)), batch_index=index if inputs.is_batch() else None)
    return output
'''


def put_model(folder: Path, handler: str | None = None, **properties: object) -> Path:
    """Make a model folder; `option__x=1` is the property `option.x=1`."""
    folder.mkdir(parents=True)
    if handler is not None:
        (folder / "model.py").write_text(handler)
    lines = [f"{name.replace('__', '.')}={value}\n" for name, value in properties.items()]
    (folder / "serving.properties").write_text("".join(lines))
    return folder


def until(condition: Callable[[], ResultT], seconds: float = DEADLINE, *, what: str = "") -> ResultT:
    """Wait until a condition holds and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what or condition}"
        time.sleep(0.01)


def ask(server: Server, model: str, *, timeout: float = DEADLINE, **order: object) -> httpx.Response:
    """Give an obedient model an order."""
    return httpx.post(f"{server.url}/predictions/{model}", json=order, timeout=timeout)


def describe(server: Server, model: str) -> dict[str, Any]:
    """Return what `GET /models/{model}` says about its first version."""
    answer = httpx.get(f"{server.url}/models/{model}", timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()[0]["models"]
    return found


def worker_pids(server: Server, model: str) -> list[int]:
    """Return the processes of a model's ready workers."""
    groups = describe(server, model)["workerGroups"]
    workers = [worker for group in groups for worker in group["workers"] if worker["status"] == "READY"]
    return sorted({worker["pid"] for worker in workers})


def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels; 0.0 when there is none."""
    total = 0.0
    for line in httpx.get(f"{server.url}/server/metrics", timeout=DEADLINE).text.splitlines():
        sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if sample is None or sample[1] != name:
            continue
        found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
        if labels.items() <= found.items():
            total += float(sample[3])
    return total


def is_alive(pid: int) -> bool:
    """Tell whether a thread of a process still runs; the first one may be a zombie before the others end."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it goes while its threads are listed
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if stat.read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}:
                    return True
    return False


def descendants(pid: int) -> list[int]:
    """Return all live processes below a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return [child for child in found if is_alive(child)]


class Gate:
    """A named pipe that an order names under `gates`: its handler waits there until the test opens it."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)
        self._end: int | None = None

    def __str__(self) -> str:
        return str(self.path)

    def wait_reached(self) -> None:
        """Wait until a handler stands at the gate; it stays there."""
        if self._end is None:
            self._end = until(self._try, what=f"handler at {self.path.name}")

    def open(self) -> None:
        """Let those through that stand at the gate, as soon as one does."""
        self.wait_reached()
        assert self._end is not None
        os.close(self._end)
        self._end = None

    def pass_on(self) -> None:
        """Let those through that stand at the gate now, if any."""
        end = self._end if self._end is not None else self._try()
        if end is not None:
            os.close(end)
        self._end = None

    def _try(self) -> int | None:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: nobody reads
            return None


class Connection:
    """A bare HTTP/1.1 connection, for what a well-behaved client would not do."""

    def __init__(self, server: Server) -> None:
        target = urlsplit(server.url)
        self.socket = socket.create_connection((target.hostname, target.port), timeout=DEADLINE)
        self._come = b""

    def send(self, line: str, headers: Mapping[str, object], body: bytes = b"") -> None:
        """Send a request line, headers and what there is of a body."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in {"host": "test", **headers}.items())
        self.socket.sendall(f"{line} HTTP/1.1\r\n{fields}\r\n".encode() + body)

    def read_until(self, mark: bytes) -> bytes:
        """Return what comes up to and including `mark`; what follows it stays for the next read."""
        while mark not in self._come:
            piece = self.socket.recv(65536)
            assert piece, f"connection ended before {mark!r}: {self._come!r}"
            self._come += piece
        end = self._come.index(mark) + len(mark)
        data, self._come = self._come[:end], self._come[end:]
        return data

    def read_to_end(self) -> bytes:
        """Return what comes until the server closes."""
        while piece := self.socket.recv(65536):
            self._come += piece
        data, self._come = self._come, b""
        return data

    def close(self) -> None:
        """Go away."""
        self.socket.close()


@contextlib.contextmanager
def connection(server: Server) -> Iterator[Connection]:
    """Open a bare connection for the time of a block."""
    opened = Connection(server)
    try:
        yield opened
    finally:
        opened.close()


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Return code, type and message of an error answer, and hold its form."""
    assert answer.headers["content-type"].startswith("application/json")
    body = json.loads(answer.text)
    assert set(body) == {"code", "type", "message"}, body
    assert body["code"] == answer.status_code
    assert answer.text.endswith("\n")
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    assert "/work/" not in answer.text
    assert "/tmp/" not in answer.text
    return body["code"], body["type"], body["message"]

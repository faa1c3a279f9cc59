"""Models on several ranks without torch: every answer needs all of them, and can be checked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
from frame.testing import Server

from tests.process.load_client import Order, order
from tests.process.probes import DEADLINE, JSON, Connection, describe, put_model, until

# Every rank adds its own number for request and token; a rank that comes alone waits for ever, as in NCCL.
HANDLER = '''
import ctypes
import os
import signal
import socket
import struct
import time
import zlib

from djl_python import Output

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def connect(address, until):
    while True:
        try:
            return socket.create_connection(address, timeout=10)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


class Collective:
    """Adds up one number of each rank."""

    def __init__(self):
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if RANK == 0:
            with socket.create_server(("", address[1])) as listener:
                listener.settimeout(20)
                self.links = [listener.accept()[0] for _ in range(WORLD - 1)]
        else:
            self.links = [connect(address, time.monotonic() + 20)]
        for link in self.links:
            link.settimeout(None)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, link):
        data = link.recv(8, socket.MSG_WAITALL)
        if len(data) < 8:
            raise OSError("lost a rank")
        return struct.unpack("!Q", data)[0]

    def add_up(self, number):
        try:
            if RANK:
                self.links[0].sendall(struct.pack("!Q", number))
                return self.read(self.links[0])
            total = number + sum(map(self.read, self.links))
            for link in self.links:
                link.sendall(struct.pack("!Q", total))
            return total
        except OSError:
            while True:  # nobody is told that a rank is lost
                time.sleep(1)


def fail():
    raise ValueError("planted in rank %d" % RANK)


def spin():
    while True:
        pass


FAULTS = {
    "raise": fail,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "stick": lambda: ctypes.PyDLL(None).sleep(1000),  # with the interpreter's lock, as PyDLL keeps it
    "spin": spin,
    "skip": lambda: True,
}


def is_first(path):
    """Tell whether nobody was here before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def is_skipped(order, number):
    """Do the harm that is ordered for this rank and token, once if a file is named for it."""
    if "fault" not in order or order.get("at", 0) != number or RANK not in order.get("on", [1]):
        return False
    if "once" in order and not is_first(order["once"]):
        return False
    if "began" in order:
        open("%s.%d" % (order["began"], RANK), "w").close()
    return FAULTS[order["fault"]]()


def token(order, number):
    """Return the sum of all ranks' numbers."""
    own = zlib.crc32(("%s %d %d" % (order["token"], number, RANK)).encode())
    return 0 if is_skipped(order, number) else group.add_up(own)


def tokens(order):
    number = 0
    try:
        for number in range(order["tokens"]):
            line = "%s %06d %d" % (order["token"], number, token(order, number))
            yield line + "." * order.get("pad", 0) + "\\n"
        number = order["tokens"]
    finally:
        if "ends" in order:
            with open("%s.%d" % (order["ends"], RANK), "a") as ends:
                ends.write("%s %d\\n" % (order["token"], number))


def answer(order, size):
    if "gate" in order and RANK == 0:
        with open(order["gate"]) as gate:
            gate.read()
    if "tokens" in order:
        return Output().add_stream_content(tokens(order), None)
    return Output().add_as_json({"token": order["token"], "sum": token(order, 0), "batch": size})


def handle(inputs):
    if inputs.is_empty():
        return None
    orders = [item.get_as_json() for item in inputs.get_batches()]
    return [answer(order, len(orders)) for order in orders]


group = Collective()
'''

# Rank 1 loses the next request when a file `lose` is put in the model folder.
LOSING = f"""
{HANDLER}
from frame.worker.channel import Channel
from frame.wire.messages import Kind

receive = Channel.read


def lose(channel, timeout):
    kept = []
    for message in receive(channel, timeout):
        try:
            if message.kind is Kind.RUN:
                os.unlink(os.path.join(os.path.dirname(__file__), "lose"))
                continue
        except FileNotFoundError:
            pass
        kept.append(message)
    return kept


if RANK == 1:
    Channel.read = lose
"""

# Rank 1 cannot load.
UNLOADABLE = """
import os

if os.environ["RANK"] == "1":
    raise MemoryError("no room for part 1 of the weights")


def handle(inputs):
    return None
"""


def put_ranks(store: Path, name: str, ranks: int, handler: str = HANDLER, **properties: object) -> Path:
    """Make a model of one group of so many ranks; a rank may be behind for three seconds."""
    common: dict[str, object] = {
        "engine": "DeepSpeed",
        "minWorkers": 1,
        "maxWorkers": 1,
        "option__tensor_parallel_degree": ranks,
        "option__group_stall_timeout": 3,
    }
    return put_model(store / name, handler, **common | properties)


def sum_of(token: str, number: int, ranks: int) -> int:
    """Return what all ranks together say about a token of a request."""
    return sum(zlib.crc32(f"{token} {number} {rank}".encode()) for rank in range(ranks))


def text_of(token: str, tokens: int, ranks: int, pad: int = 0) -> bytes:
    """Return a whole stream."""
    return "".join(
        f"{token} {number:06d} {sum_of(token, number, ranks)}{'.' * pad}\n" for number in range(tokens)
    ).encode()


def stream_order(model: str, ranks: int, tokens: int, pad: int = 0, **work: object) -> Order:
    """Make a request for a stream that knows its right answer."""
    made = order(model, tokens=tokens, pad=pad, **work)
    right = text_of(made.token, tokens, ranks, pad)
    return replace(made, is_right=lambda body: body == right)


def sum_order(model: str, ranks: int, **work: object) -> Order:
    """Make a request for one sum that knows its right answer."""
    made = order(model, **work)
    right = {"token": made.token, "sum": sum_of(made.token, 0, ranks)}
    return replace(made, is_right=lambda body: right.items() <= json.loads(body).items())


def send(raw: Connection, made: Order) -> None:
    """Send an order without waiting for anything."""
    body = b"".join(made.parts)
    raw.send(f"POST {made.path}", JSON | {"content-length": len(body)}, body)


def post(server: Server, made: Order) -> httpx.Response:
    """Send an order and wait for its answer."""
    url, body = f"{server.url}{made.path}", b"".join(made.parts)
    return httpx.post(url, content=body, headers=JSON, timeout=DEADLINE)


def assert_right(made: Order, answer: httpx.Response) -> None:
    """Hold that an order was answered, and rightly."""
    assert answer.status_code == 200, answer.text
    assert made.is_right is not None
    assert made.is_right(answer.content), answer.content[-200:]


def ranks_of(server: Server, model: str) -> list[int]:
    """Return the pids of a ready group's ranks, in order; none while it is not ready."""
    groups = describe(server, model)["workerGroups"]
    ready = [worker for group in groups for worker in group["workers"] if worker["status"] == "READY"]
    assert len(ready) <= 1
    found = sorted((rank["rank"], rank["pid"]) for worker in ready for rank in worker["ranks"])
    assert [rank for rank, _ in found] == list(range(len(found)))
    return [pid for _, pid in found]


def wait_ranks(server: Server, model: str, *, none_of: Sequence[int] = ()) -> list[int]:
    """Wait until a group is ready that has none of these processes; return its pids, in order of rank."""

    def ready() -> list[int]:
        found = ranks_of(server, model)
        return [] if set(found) & set(none_of) else found

    return until(ready, what=f"another group of {model}")

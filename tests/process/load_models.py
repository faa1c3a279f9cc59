"""Models for loads: each request is a JSON object that says what to do, and its answer holds its token."""

from __future__ import annotations

# Sleeps, dies, takes all memory or answers at length as it is told; a batch is done one after the other.
WILLING = """
import os
import resource
import signal
import time

from djl_python import Input, Output


def hog():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as pages:
        used = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        return bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def work(order, size):
    if "seen" in order:
        with open(order["seen"], "a") as seen:
            seen.write(order["token"] + "\\n")
    if "gate" in order:
        with open(order["gate"]) as gate:
            gate.read()
    time.sleep(order.get("sleep", 0))
    if "kill" in order:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hog" in order:
        hog()
    answer = {"token": order["token"], "pid": os.getpid(), "batch": size}
    return {**answer, "reply": "x" * order.get("reply", 0)}


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    orders = [item.get_as_json() for item in batch]
    return [Output().add_as_json(work(order, len(orders))) for order in orders]
"""

# Answers with token, length and checksum of a body that begins with its token.
WEIGHING = """
import json
import zlib

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    body = inputs.get_as_bytes()
    token = bytes(body[:22]).decode()
    return Output().add_as_json({"token": token, "length": len(body), "sum": zlib.crc32(body)})
"""

# Streams so many pieces, each with its token and its number.
TELLING = """
import time

from djl_python import Input, Output


def pieces(order):
    try:
        for number in range(order["pieces"]):
            yield "%s %06d\\n" % (order["token"], number)
            time.sleep(order.get("sleep", 0))
    finally:
        if "ended" in order:
            with open(order["ended"], "a") as ended:
                ended.write(order["token"] + "\\n")


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    return Output().add_stream_content(pieces(inputs.get_as_json()), None)
"""

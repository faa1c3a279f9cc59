"""Load a model, answer, and close it again and again, in a worker's own interpreter and environment.

Reads one JSON object from stdin: `load`, a `LoadHead`, `requests` and `cycles`. Writes one line of JSON for
each cycle: how many threads and descriptors there are after everything was closed, and how long it took.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
import threading
import time
from typing import Any

from frame.contract.models import Engine, Model, SequenceModel
from frame.contract.properties import Properties
from frame.contract.requests import Part, Request, ResponseStream
from frame.wire.messages import LoadHead
from frame.worker.loading import load_model

_SETTLE_SECONDS = 5.0
"""Threads that were told to end may take so long."""


def main() -> int:
    """Run the cycles."""
    given = json.load(sys.stdin)
    head = LoadHead(**given["load"])
    requests = [_request(item) for item in given["requests"]]
    results = sys.stdout
    sys.stdout = sys.stderr  # whatever the model prints is no result
    before: dict[str, Any] = {}
    for _ in range(given["cycles"]):
        times = _cycle(head, requests)
        before = {**_settled(before), "seconds": times}
        print(json.dumps(before), file=results, flush=True)
    return 0


def _request(item: dict[str, Any]) -> Request:
    parts = tuple(Part(key, base64.b64decode(data)) for key, data in item["parts"])
    return Request(id=item["id"], properties=Properties(item["properties"]), parts=parts, seed=item["seed"])


def _cycle(head: LoadHead, requests: list[Request]) -> dict[str, float]:
    """Load, answer every request, close everything twice; return the seconds of each."""
    started = time.perf_counter()
    engine, model = load_model(head, lambda _name, _allowed: None)
    loaded = time.perf_counter()
    with engine.slot_context():
        model.warm_up()
        warm = time.perf_counter()
        answer_all(model, requests)
    answered = time.perf_counter()
    close_twice(engine, model)
    return {
        "load": loaded - started,
        "warm_up": warm - loaded,
        "answers": answered - warm,
        "close": time.perf_counter() - answered,
    }


def answer_all(model: Model, requests: list[Request]) -> None:
    """Have a model answer, and read its streams to their ends."""
    if isinstance(model, SequenceModel):
        waiting = list(enumerate(requests, start=1))
        running: set[int] = set()
        while waiting or running:
            while waiting and model.capacity() > 0:
                job, request = waiting.pop(0)
                model.admit(job, request)
                running.add(job)
            for event in model.step():
                if not hasattr(event, "data"):  # Done or Failed
                    running.discard(event.job)
        return
    for answer in model.predict(requests):
        if isinstance(answer, ResponseStream):
            try:
                for _ in answer.chunks:
                    pass
            finally:
                answer.close()


def close_twice(engine: Engine, model: Model) -> None:
    """Close all, as often as a careful caller would."""
    for _ in range(2):
        model.close()
    for _ in range(2):
        engine.close()


def _settled(before: dict[str, Any]) -> dict[str, Any]:
    """Count what is left, once no more goes; no longer than it takes to be no more than `before`."""
    gc.collect()
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        counts = {"threads": _threads(), "descriptors": _entries("/proc/self/fd")}
        is_fine = all(counts[name] <= before.get(name, 0) for name in counts)
        if is_fine or not before or time.monotonic() > deadline:
            return counts
        time.sleep(0.05)


def _threads() -> int:
    """Return the threads of the process, those of libraries included."""
    return max(threading.active_count(), _entries("/proc/self/task"))


def _entries(folder: str) -> int:
    with os.scandir(folder) as found:
        return sum(1 for _ in found)


if __name__ == "__main__":
    sys.exit(main())

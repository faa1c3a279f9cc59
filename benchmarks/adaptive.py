"""`batching=adaptive` beside DJL's defaults and settings chosen by hand, at three loads.

Usage: python benchmarks/adaptive.py [--rounds 3] [--seconds 12] [--target-ms 150] [--base-ms 20]
           [--per-item-ms 2] [--rate 10 --rate 60 --rate 250] [--model minilm] [--server hypercorn]

A handler that sleeps `base + per_item * b` for a batch of b requests runs on one worker. Requests come at
random (Poisson) and do not wait for each other; a latency counts from the time at which its request was meant
to leave. Each setting gets the same arrivals, on a server of its own. Prints latencies, answers a second and
whether the target was met: medians over the rounds; then what adaptive batching chose, over time. Then an
example model, if the store is there, under a closed loop of 32 clients. Ends with status 1 when adaptive
batching misses the target, or answers fewer than 95 % of what the defaults answer where they meet it.
README.md says what the columns are.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import send_for
from frame.testing import Server, run_server
from inputs import BATCHES, bodies_of, read_subject
from load import median_spread
from open_loop import Asked, ask_at, poisson
from served import serve_copy

HANDLER = """
import time

from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    time.sleep({base} + {per_item} * len(batch))
    output = Output()
    for index, _ in enumerate(batch):
        output.add("done", batch_index=index if inputs.is_batch() else None)
    return output
"""
DEFAULTS, BY_HAND, ADAPTIVE = "defaults", "by hand", "adaptive"
_WARM = 3.0
"""Seconds of load before what is counted."""
_GRACE = 2.0
"""Seconds after the last request in which answers still count; later ones count as none."""
_KEEPS = 0.95
"""Part of the defaults' throughput that must be left where they meet the target."""
_CLIENTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the clients of one run saw after the warm-up, in seconds."""

    p50: float
    p99: float
    rate: float
    refused: int
    unanswered: int


@dataclass(slots=True, kw_only=True)
class Row:
    """A line of the table: all rounds of one load with one kind of settings."""

    load: float
    name: str
    rounds: list[Round] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    """Those of the last round; `at` is seconds since its load began."""

    def median(self, name: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(getattr(item, name) for item in self.rounds)

    def meets(self, target: float) -> bool:
        """Tell whether 99 of 100 requests were answered within the target, and all were answered."""
        failed = any(item.refused or item.unanswered for item in self.rounds)
        return not failed and self.median("p99") <= target


def settings_of(target_ms: float) -> dict[str, dict[str, str]]:
    """Return what is compared."""
    return {
        DEFAULTS: {"batch_size": "1", "max_batch_delay": "100"},
        BY_HAND: {"batch_size": "16", "max_batch_delay": "5"},
        ADAPTIVE: {"batching": "adaptive", "latency_target_ms": f"{target_ms:g}"},
    }


@contextmanager
def serve(given: argparse.Namespace, settings: Mapping[str, str]) -> Iterator[Server]:
    """Serve the handler on one worker."""
    fixed = {"minWorkers": "1", "maxWorkers": "1", "job_queue_size": "20000"}
    lines = [f"{key}={value}\n" for key, value in {**fixed, **settings}.items()]
    code = HANDLER.format(base=given.base_ms / 1000, per_item=given.per_item_ms / 1000)
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as store:
        folder = Path(store, "timed")
        folder.mkdir()
        (folder / "model.py").write_text(code)
        (folder / "serving.properties").write_text("".join(lines))
        with run_server(store, ["--http-server", given.server]) as server:
            yield server


def choices(server: Server, model: str) -> list[dict[str, Any]]:
    """Return what adaptive batching chose, oldest first."""
    with urllib.request.urlopen(f"{server.url}/models/{model}/explain", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["choices"]
    return found


def run(row: Row, given: argparse.Namespace, seed: int) -> None:
    """Measure a round of a row."""
    end = _WARM + given.seconds
    times = poisson(row.load, end, seed)
    with serve(given, settings_of(given.target_ms)[row.name]) as server:
        asked = ask_at(times, f"{server.url}/predictions/timed", b"{}", grace=_GRACE)
        made = choices(server, "timed")
    over = max(one.ended for one in asked)  # when the choices were asked for
    row.choices = [{**choice, "at": over - choice["seconds_ago"]} for choice in made]
    row.rounds.append(_round(asked, end))


def _round(asked: list[Asked], end: float) -> Round:
    counted = [one for one in asked if one.intended >= _WARM]
    latencies = sorted(one.latency for one in counted)
    answered = sum(one.status == 200 and _WARM <= one.ended < end for one in asked)
    return Round(
        p50=latencies[len(latencies) // 2],
        p99=latencies[int(0.99 * len(latencies))],
        rate=answered / (end - _WARM),
        refused=sum(one.status not in {0, 200} for one in counted),
        unanswered=sum(one.status == 0 for one in counted),
    )


HEADER = (
    f"{'req/s':>6} {'settings':9} {'p50 ms':>7} {'p99 ms':>7} {'spread':>11} {'answers/s':>9} {'ratio':>6} "
    f"{'refused':>7} {'none':>6} target"
)


def line_of(row: Row, defaults: Row, target: float) -> str:
    """Return a row of the table."""
    p99, spread = median_spread([item.p99 * 1000 for item in row.rounds])
    ratio = statistics.median(
        mine.rate / theirs.rate for mine, theirs in zip(row.rounds, defaults.rounds, strict=True)
    )
    refused, unanswered = (
        sum(getattr(item, name) for item in row.rounds) for name in ("refused", "unanswered")
    )
    return (
        f"{row.load:6g} {row.name:9} {row.median('p50') * 1000:7.1f} {p99:7.1f} {spread:>11} "
        f"{row.median('rate'):9.1f} {ratio:6.3f} {refused:7} {unanswered:6} "
        f"{'met' if row.meets(target) else 'MISSED'}"
    )


def compare(load: float, given: argparse.Namespace) -> bool:
    """Print the rows of a load; tell whether adaptive batching keeps what it promises."""
    rows = {name: Row(load=load, name=name) for name in settings_of(given.target_ms)}
    for seed in range(given.rounds):
        for row in rows.values():
            run(row, given, seed)
    target = given.target_ms / 1000
    defaults, adaptive = rows[DEFAULTS], rows[ADAPTIVE]
    for row in rows.values():
        print(line_of(row, defaults, target))
    for choice in adaptive.choices:
        delay = choice["max_delay"] * 1000
        chosen = f"batch_size={choice['batch_size']} delay={delay:.3g} ms"
        print(f"       {choice['at']:5.1f} s  {chosen}: {choice['reason']}")
    sys.stdout.flush()
    keeps = adaptive.median("rate") >= _KEEPS * defaults.median("rate")
    return adaptive.meets(target) and (keeps or not defaults.meets(target))


def saturate(model: str, given: argparse.Namespace) -> None:
    """Print the answers a second of an example model under a closed loop, with each kind of settings."""
    subject = read_subject(model)
    if not subject.folder.is_dir():
        print(f"{model}: not in the example store (make store)")
        return
    body = bodies_of(subject)[0]
    head = {"content-type": body.content_type, "accept": body.accept}
    rates: dict[str, list[float]] = {name: [] for name in settings_of(given.target_ms)}
    made: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        for name, settings in settings_of(given.target_ms).items():
            with serve_copy(subject, 1, given.server, settings) as server:
                url = f"{server.url}/predictions/{model}"
                send_for(_WARM, url, head, body.data, batch=_CLIENTS // 2)
                burst = send_for(given.seconds / 2, url, head, body.data, batch=_CLIENTS // 2)
                made = choices(server, model) or made
            assert not burst.errors, burst.errors
            rates[name].append(burst.rate)
    print(f"\n{model}, {_CLIENTS} clients that send again once they are answered, {body.label}")
    print(f"{'settings':9} {'answers/s':>9} {'ratio':>6} {'spread':>11}")
    for name, found in rates.items():
        ratio, spread = median_spread(
            [mine / theirs for mine, theirs in zip(found, rates[DEFAULTS], strict=True)]
        )
        print(f"{name:9} {statistics.median(found):9.1f} {ratio:6.2f} {spread:>11}")
    sizes = " ".join(str(choice["batch_size"]) for choice in made)
    print(f"chosen sizes: {sizes}; {made[-1]['reason'] if made else ''}", flush=True)


def main() -> int:
    """Print the tables."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run, after 3 s of warm-up")
    parser.add_argument("--target-ms", type=float, default=150.0)
    parser.add_argument("--base-ms", type=float, default=20.0)
    parser.add_argument("--per-item-ms", type=float, default=2.0)
    parser.add_argument("--rate", type=float, action="append", help="requests per second")
    parser.add_argument("--model", choices=list(BATCHES), default="minilm")
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # at the highest load the defaults' queue is long
    print(
        f"{given.server}, one worker, {given.base_ms:g} ms + {given.per_item_ms:g} ms a request, "
        f"target {given.target_ms:g} ms"
    )
    print(HEADER)
    kept = [compare(load, given) for load in given.rate or (10.0, 60.0, 250.0)]
    saturate(given.model, given)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Example models through Frame beside their frameworks alone, called in a loop at the same batch sizes.

Usage: python benchmarks/models.py [--rounds 5] [--seconds 3] [--model NAME] [--batch N] [--server uvicorn]

Prints rows per second of both and their ratio: the median over the rounds with the spread. In each round the
framework alone and Frame are measured in turn, so that a drift of the machine meets both; one computes while
the other sleeps. Both compute on one thread. Clients send one row per request over two connections per row of
a batch, so that the next batch always waits. README.md says what the columns are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import IO, Any

from client import Burst, send_for
from frame.worker.codecs import ndlist
from inputs import BATCHES, Body, Subject, bodies_of, read_subject
from load import median_spread
from served import Worked, serve_copy, worked

BUDGET = 0.95
LONG_CALL = 0.005  # seconds; the budget holds for batches that take at least this
_WARM_SECONDS = 0.5
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One round: the framework alone, then Frame."""

    raw_rate: float
    raw_call: float
    burst: Burst
    worked: Worked

    @property
    def ratio(self) -> float:
        """Frame's rows per second as a share of the framework's."""
        return float(self.burst.rate / self.raw_rate)


@dataclass(slots=True, kw_only=True)
class Row:
    """A line of the table: all rounds of one model, batch size and kind of body."""

    subject: Subject
    batch: int
    body: Body
    pairs: list[Pair] = field(default_factory=list)


class Raw:
    """The framework alone, in a process that sleeps between commands."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process = process
        self._log = log

    def ask(self, **command: object) -> Any:
        """Send a command of raw.py and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"raw.py ended with {self._process.wait()}\n{self._log.read()[-4000:]}")
        return json.loads(line)


@contextmanager
def raw(subject: Subject) -> Iterator[Raw]:
    """Run raw.py while the block runs."""
    command = [sys.executable, str(Path(__file__).with_name("raw.py")), subject.model]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as log,  # TensorFlow talks about its build, which is of no interest here
        subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        yield Raw(process, log)


def check_same(subject: Subject, body: Body, url: str, expected: Any) -> None:
    """Stop when the server does not answer what the framework does: its speed would mean nothing."""
    headers = {"content-type": body.content_type, "accept": body.accept}
    request = urllib.request.Request(url, body.data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
    found: Any
    if subject.engine == "python":
        found, expected = known_of(subject, json.loads(answer)), known_of(subject, expected)
    elif body.is_binary:
        found = [array.tolist() for _, array in sorted(ndlist.loads(answer), key=lambda item: item[0] or "")]
    else:
        given = json.loads(answer)["predictions"]
        found = [given[name] for name in sorted(given)] if isinstance(given, dict) else [given]
    if not is_close(found, expected):
        sys.exit(f"{subject.model}, {body.label}: the server and the framework answer differently")


def known_of(subject: Subject, answer: Any) -> list[Any]:
    """Return the parts of a handler's answer that are always the same."""
    return [reduce(lambda value, step: value[step], path, answer) for path in subject.known]


def is_close(found: Any, expected: Any) -> bool:
    """Compare JSON, numbers with a tolerance."""
    if isinstance(expected, dict):
        return expected.keys() == found.keys() and all(is_close(found[key], expected[key]) for key in found)
    if isinstance(expected, list):
        return len(expected) == len(found) and all(map(is_close, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(found == expected)


def measure(subject: Subject, batch: int, alone: Raw, given: argparse.Namespace) -> list[Row]:
    """Measure one model at one batch size with each kind of body."""
    rows = [Row(subject=subject, batch=batch, body=body) for body in bodies_of(subject)]
    with serve_copy(subject, batch, given.server) as server:
        url = f"{server.url}/predictions/{subject.model}"
        for row in rows:
            check_same(subject, row.body, url, alone.ask(answer=True))
            burst(row, url, _WARM_SECONDS)
        for _ in range(given.rounds):
            found = alone.ask(batch=batch, seconds=given.seconds)
            for row in rows:
                before = worked(server)
                seen = burst(row, url, given.seconds)
                row.pairs.append(
                    Pair(
                        raw_rate=found["rate"],
                        raw_call=found["call_seconds"],
                        burst=seen,
                        worked=worked(server).since(before),
                    )
                )
    return rows


def burst(row: Row, url: str, seconds: float) -> Burst:
    """Send the row's request for a while."""
    head = {"content-type": row.body.content_type, "accept": row.body.accept}
    return send_for(seconds, url, head, row.body.data, batch=row.batch)


HEADER = (
    f"{'model':13} {'engine':11} {'body':6} {'batch':>5} {'reached':>7} {'raw ms':>7} {'raw row/s':>9} "
    f"{'frame row/s':>11} {'ratio':>6} {'spread':>11} {'infer ms':>8} {'decode':>6} {'infer':>6} "
    f"{'encode':>6} {'idle':>6} {'errors':>6} budget"
)


def line_of(row: Row) -> str:
    """Return a row of the table."""
    pairs = row.pairs
    ratio, spread = median_spread([pair.ratio for pair in pairs])
    alone = median_spread([pair.raw_rate for pair in pairs])[0]
    call = median_spread([pair.raw_call for pair in pairs])[0]
    own = median_spread([pair.burst.rate for pair in pairs])[0]
    batches = sum(pair.worked.batches for pair in pairs)
    reached = sum(pair.worked.requests for pair in pairs) / batches
    infer = sum(pair.worked.inference for pair in pairs) / batches
    decode = sum(pair.worked.decode for pair in pairs) / batches
    encode = sum(pair.worked.encode for pair in pairs) / batches
    cycle = sum(pair.worked.requests / pair.burst.rate for pair in pairs) / batches
    shares = " ".join(
        f"{part / cycle:6.1%}" for part in (decode, infer, encode, cycle - decode - infer - encode)
    )
    errors = sum(pair.burst.errors for pair in pairs)
    return (
        f"{row.subject.model:13} {row.subject.engine:11} {row.body.label:6} {row.batch:5} {reached:7.2f} "
        f"{call * 1e3:7.2f} {alone:9.1f} {own:11.1f} {ratio:6.3f} {spread:>11} {infer * 1e3:8.2f} {shares} "
        f"{errors:6} {verdict(row, ratio, call)}"
    )


def verdict(row: Row, ratio: float, call: float) -> str:
    """Say whether the budget was kept, or why there is none."""
    if not row.body.is_binary:
        return "- (text)"
    if call < LONG_CALL:
        return "- (short)"
    return "kept" if ratio >= BUDGET else "MISSED"


def main() -> None:
    """Print the table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loop")
    parser.add_argument("--model", choices=list(BATCHES), action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    given = parser.parse_args()
    print(HEADER)
    for model in given.model or BATCHES:
        subject = read_subject(model)
        if not subject.folder.is_dir():
            sys.exit(f"{subject.folder} is missing: make store")
        with raw(subject) as alone:
            for batch in given.batch or BATCHES[model]:
                for row in measure(subject, batch, alone, given):
                    print(line_of(row), flush=True)


if __name__ == "__main__":
    main()

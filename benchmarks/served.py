"""One example model behind `frame serve` at a chosen batch size, and what the server's metrics say."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frame.testing import Server, run_server
from inputs import Subject
from prometheus_client.parser import text_string_to_metric_families

_DELAY_MS = 100  # long enough for a batch's clients to come back; a full batch does not wait for it
_THREADS = "option.intra_op_num_threads"
_HISTOGRAMS = ("decode_seconds", "inference_seconds", "encode_seconds", "batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """Sums since the server's start, in seconds; `batches` counts them and `requests` what was in them."""

    decode: float
    inference: float
    encode: float
    requests: float
    batches: float

    def since(self, before: Worked) -> Worked:
        """Return what was done after `before`."""
        return Worked(
            decode=self.decode - before.decode,
            inference=self.inference - before.inference,
            encode=self.encode - before.encode,
            requests=self.requests - before.requests,
            batches=self.batches - before.batches,
        )


def worked(server: Server) -> Worked:
    """Read the server's metrics."""
    with urllib.request.urlopen(f"{server.url}/server/metrics", timeout=30) as answer:
        text = answer.read().decode()
    wanted = {f"frame_{name}{end}" for name in _HISTOGRAMS for end in ("_sum", "_count")}
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in wanted
    }
    return Worked(
        decode=found["frame_decode_seconds_sum"],
        inference=found["frame_inference_seconds_sum"],
        encode=found["frame_encode_seconds_sum"],
        requests=found["frame_batch_size_sum"],
        batches=found["frame_batch_size_count"],
    )


@contextmanager
def serve_copy(
    subject: Subject, batch: int, http_server: str, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Serve the model, and nothing else, with one worker that computes on one thread.

    Args:
        settings: properties in place of `batch_size` and `max_batch_delay`.
    """
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as store:
        copy = Path(store, subject.model)
        copy.mkdir()
        for path in subject.folder.iterdir():
            if path.name not in {"serving.properties", "__pycache__", ".recipe"}:
                (copy / path.name).symlink_to(path)
        (copy / "serving.properties").write_text(_properties(subject, batch, settings))
        arguments = ["--http-server", http_server]
        with run_server(store, arguments, environ={"OMP_NUM_THREADS": "1"}) as server:
            yield server


def _properties(subject: Subject, batch: int, settings: Mapping[str, str] | None) -> str:
    """Return the model's own settings with the benchmark's in place of some."""
    fixed = {"batch_size": str(batch), "max_batch_delay": str(_DELAY_MS if batch > 1 else 0)}
    own = {"minWorkers": "1", "maxWorkers": "1", **(settings or fixed)}
    if subject.engine != "python":  # a handler sets its threads itself, both times
        own[_THREADS] = "1"
    lines = (subject.folder / "serving.properties").read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in {*own, *fixed}]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in own.items()), ""])

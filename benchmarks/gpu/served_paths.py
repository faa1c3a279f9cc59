"""The same model behind `frame serve`: streaming HTTP clients, beside the raw loop of the same run.

Started by gptj_paths.py with --served; needs a folder written by `model_folder.save_folder`.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from frame.testing import Server, run_server

NAME = "gptj"
LOAD_SECONDS = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """One answer as its client saw it: when it was asked, when each token came, and which tokens."""

    asked: float
    came: tuple[float, ...]
    tokens: tuple[int, ...]


def ask(url: str, prompt: list[int], new: int) -> Streamed:
    """Send one request for a stream of `new` tokens and read it to its end."""
    split = urlsplit(url)
    body = {
        "inputs": " ".join(f"t{token}" for token in prompt),
        "parameters": {"max_new_tokens": new},
        "stream": True,
    }
    connection = http.client.HTTPConnection(str(split.hostname), split.port, timeout=120)
    came, tokens = [], []
    asked = time.perf_counter()
    connection.request("POST", f"/predictions/{NAME}", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        message = f"{answer.status}: {answer.read(2000).decode(errors='replace')}"
        raise ConnectionError(message)
    while line := answer.readline():
        came.append(time.perf_counter())
        tokens.append(json.loads(line)["token"]["id"])
    connection.close()
    return Streamed(asked=asked, came=tuple(came), tokens=tuple(tokens))


def ask_together(url: str, prompts: list[list[int]], new: int) -> list[Streamed]:
    """Let one client for each prompt ask at the same time; return their answers in order."""
    found: list[Streamed | None] = [None] * len(prompts)
    gate = threading.Barrier(len(prompts))

    def client(index: int) -> None:
        gate.wait()
        found[index] = ask(url, prompts[index], new)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    missing = found.count(None)
    if missing:
        message = f"{missing} of {len(prompts)} clients got no answer"
        raise ConnectionError(message)
    return [one for one in found if one is not None]


def rate(answers: list[Streamed]) -> float:
    """Return tokens per second from the first question to the last token."""
    seconds = max(one.came[-1] for one in answers) - min(one.asked for one in answers)
    return sum(len(one.tokens) for one in answers) / seconds


@contextmanager
def serve(
    folder: Path, slots: int, *, tiny: bool, length: int, more: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, float]]:
    """Serve the folder through the built-in handler; gives the server and the seconds until it was ready.

    Args:
        more: of serving.properties.
    """
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as store:
        model = Path(store, NAME)
        model.mkdir()
        settings = {
            "engine": "Python",
            "option.model_id": str(folder),
            "option.task": "text-generation",
            "option.dtype": "fp32" if tiny else "fp16",
            "option.max_tokens": str(length),
            "option.max_rolling_batch_size": str(slots),
            "minWorkers": "1",
            "maxWorkers": "1",
            "option.model_loading_timeout": str(int(LOAD_SECONDS)),
            **(more or {}),
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        (model / "serving.properties").write_text("".join(lines))
        began = time.monotonic()
        with run_server(store, timeout=LOAD_SECONDS, environ=dict(os.environ)) as server:
            yield server, time.monotonic() - began


def measure_served(
    url: str, asked: list[list[int]], new: int, rounds: int, counts: list[int], reference: list[list[int]]
) -> dict[str, Any]:
    """Return what streaming clients see: in the same terms as `measure.measure`."""
    ask(url, asked[0], 4)
    alone = [ask(url, asked[0], new) for _ in range(rounds)]
    sixteen = [ask(url, asked[0], 16) for _ in range(rounds)]
    equal = total = 0
    for prompt, expected in zip(asked, reference, strict=False):
        answer = ask(url, prompt, new)
        same = [a == b for a, b in zip(answer.tokens, expected, strict=False)]
        # One other token makes all that follow others: what counts is how far the answers go together.
        equal += same.index(False) if False in same else len(same)
        total += len(answer.tokens)
    rates = {}
    for count in counts:
        ask_together(url, asked[:count], 4)
        waves = [rate(ask_together(url, asked[:count], new)) for _ in range(rounds)]
        rates[str(count)] = {"median": statistics.median(waves), "low": min(waves), "high": max(waves)}
    between = [1e3 * (one.came[-1] - one.came[0]) / (len(one.came) - 1) for one in alone]
    return {
        "first_token_ms": statistics.median(1e3 * (one.came[0] - one.asked) for one in alone),
        "token_ms": statistics.median(between),
        "token_ms_spread": [min(between), max(between)],
        "sixteen_tokens_s": statistics.median(one.came[-1] - one.asked for one in sixteen),
        "tokens": min(len(one.tokens) for one in alone),
        "tokens_per_s": rates,
        "in_step_with_eager": [equal, total],
    }


def compare(raw: dict[str, Any], served: dict[str, Any]) -> str:
    """Return the table of the server beside the raw loop: ratios above 1 are what the server costs."""
    rows = [
        ("ms/token, one client", raw["token_ms"]["median"], served["token_ms"]),
        ("first token ms", raw["first_token_ms"]["median"], served["first_token_ms"]),
        ("16 tokens s", raw["sixteen_tokens_s"]["median"], served["sixteen_tokens_s"]),
    ]
    lines = [f"{'':22}  {'raw':>9}  {'served':>9}  ratio"]
    lines += [f"{name:22}  {a:9.3f}  {b:9.3f}  {b / a:.3f}" for name, a, b in rows]
    for count, found in served["tokens_per_s"].items():
        a, b = raw["tokens_per_s"][count]["median"], found["median"]
        lines.append(f"{f'tokens/s, {count} clients':22}  {a:9.0f}  {b:9.0f}  {a / b:.3f}")
    equal, total = served["in_step_with_eager"]
    lines.append(f"tokens in step with eager's: {equal} of {total}; ready after {served['ready_s']:.0f} s")
    return "\n".join(lines)


def run_served(
    folder: Path, out: Path, raw: dict[str, Any], *, tiny: bool, new: int, rounds: int, length: int
) -> dict[str, Any]:
    """Serve, measure, print, and write `served.json` with the end of the server's log."""
    from model_folder import prompts

    counts = [int(count) for count in raw["tokens_per_s"]]
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    asked = prompts(counts[-1], 32, vocabulary)
    reference = json.loads((out / "reference.json").read_text())
    with serve(folder, counts[-1], tiny=tiny, length=length) as (server, ready):
        try:
            found = measure_served(server.url, asked, new, rounds, counts, reference)
        finally:
            (out / "served.log").write_text(server.log())
    found["ready_s"] = ready
    (out / "served.json").write_text(json.dumps(found, indent=1))
    print(compare(raw, found), flush=True)
    return found

"""What one path does, measured in a process of its own and written as JSON."""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from model_folder import make_model, prompts, weight_bytes
from paths import PROMPT, make_path

COMPARED = 4
"""Prompts whose answers are compared token by token."""


def timed(call: Any) -> float:
    """Return the seconds of a call whose answer is on the host."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    """Return the median with the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(path: Any, asked: list[list[int]], new: int, rounds: int, counts: list[int]) -> dict[str, Any]:
    """Measure latency and throughput of a path that is warm."""
    one = asked[:1]
    path.generate(one, 4)
    first = [timed(lambda: path.generate(one, 1)) for _ in range(rounds)]
    long = [timed(lambda: path.generate(one, new)) for _ in range(rounds)]
    sixteen = [timed(lambda: path.generate(one, 16)) for _ in range(rounds)]
    found: dict[str, Any] = {
        "first_token_ms": spread([1e3 * value for value in first]),
        "token_ms": spread([1e3 * (b - a) / (new - 1) for a, b in zip(first, long, strict=True)]),
        "sixteen_tokens_s": spread(sixteen),
        "tokens_per_s": {},
    }
    for count in counts:
        path.generate(asked[:count], 4)
        seconds = [timed(lambda count=count: path.generate(asked[:count], new)) for _ in range(rounds)]
        found["tokens_per_s"][str(count)] = spread([count * new / value for value in seconds])
    return found


def agreement(path: Any, asked: list[list[int]], folder: Path) -> dict[str, Any]:
    """Compare the chosen tokens with the reference's, given the reference's answer so far.

    Returns:
        How many are equal, one sequence at a time and (`together`) with all slots in use; and for those that
        are not how far the other token's logit was below the best one in the reference, in steps of float16.
        Ties are left out: the reference's own rounding decided them.
    """
    answers, logits = json.loads((folder / "reference.json").read_text()), torch.load(folder / "logits.pt")
    asked = asked[: len(answers)]
    chosen = [path.forced(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)]
    found = compare(chosen, answers, logits)
    if hasattr(path, "forced_together"):
        chosen = path.forced_together(asked, answers)
        times = len(chosen) // len(answers)
        found["together"] = compare(chosen, answers * times, logits * times)
    return found


def compare(chosen: list[list[int]], answers: list[list[int]], logits: list[torch.Tensor]) -> dict[str, Any]:
    """Count equal tokens, and measure how far the others are from the best."""
    equal, gaps = 0, []
    for found, answer, places in zip(chosen, answers, logits, strict=True):
        equal += sum(a == b for a, b in zip(found, answer, strict=True))
        for a, place in zip(found, places, strict=True):
            best = float(place.max())
            step = 2.0 ** (math.floor(math.log2(abs(best))) - 10)  # float16 has 10 bits after the first
            if place[a] < best:
                gaps.append(round((best - float(place[a])) / step, 1))
    return {"equal": equal, "of": sum(map(len, answers)), "gaps": sorted(gaps, reverse=True)}


def leave_reference(path: Any, asked: list[list[int]], new: int, folder: Path) -> None:
    """Write the eager path's answers, each alone in its batch, and the logits of every place."""
    answers, logits = [], []
    for prompt in asked:
        (answer,) = path.generate([prompt], new)
        kept: list[Any] = []
        path.forced(prompt, answer, kept)
        answers.append(answer)
        logits.append(torch.stack(kept))
    (folder / "reference.json").write_text(json.dumps(answers))
    torch.save(logits, folder / "logits.pt")


def profile(path: Any, asked: list[list[int]], new: int, count: int) -> str:
    """Return a table of the kernels that a run of `new` tokens spends its time in, after the first token."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as seen:
        path.generate(asked[:count], new)
        torch.cuda.synchronize()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)[:16]
    lines = [f"{e.self_device_time_total / 1e3:8.3f} ms {e.count:6d} x  {e.key[:90]}" for e in events]
    return f"{count} sequences, {new} tokens:\n" + "\n".join(lines)


def run_child(
    name: str, folder: Path, *, tiny: bool, quick: bool, new: int, rounds: int, profiled: bool
) -> None:
    """Measure the path `name` and write `NAME.json`; `eager` also leaves the reference tokens."""
    began = time.monotonic()
    model = make_model(tiny=tiny)
    counts = [1, 2, 4] if tiny else [1, 8, 32]
    asked = prompts(counts[-1], PROMPT, model.config.vocab_size)
    floor = weight_bytes(model)
    with torch.inference_mode():
        path = make_path(name, model, counts[-1], quick=quick)
        found = {
            "path": name,
            "start_s": time.monotonic() - began,
            "load_s": path.load_seconds,
            "weights": floor,
        }
        if name == "eager":
            leave_reference(path, asked[:COMPARED], new, folder)
        found["agreement"] = agreement(path, asked, folder)
        found.update(measure(path, asked, new, rounds, counts[:1] if name == "inject" else counts))
        if profiled:
            for count in counts:
                print(profile(path, asked, 16, count), flush=True)
        if not tiny:
            found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    (folder / f"{name}.json").write_text(json.dumps(found))

"""GPT-J-6B cut over two GPUs behind `frame serve`, beside one GPU in the same run.

    python benchmarks/gpu/two_gpus.py --out results                       # all; needs two GPUs
    python benchmarks/gpu/two_gpus.py --cases one-graph,two-graph --out results
    python benchmarks/gpu/two_gpus.py --tiny --cases one-eager,two-eager  # small, on a CPU: does it run?

Each case is a server of its own, by mpirun and NCCL. What a case finds is written at once, so that several
calls add up to one table: `--cases ""` prints it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from served_paths import NAME, ask, measure_served, serve

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Case:
    """How the model is served: over how many GPUs a copy is cut, by which path, how many copies."""

    degree: int
    path: str
    groups: int = 1
    all_reduce: str = "auto"

    def properties(self) -> dict[str, str]:
        """Return what serving.properties says of it."""
        return {
            "engine": "DeepSpeed",
            "option.tensor_parallel_degree": str(self.degree),
            "option.path": self.path,
            "option.all_reduce": self.all_reduce,
            "option.on_self_check": "fail",
            "option.self_check_timeout": "180",
            "minWorkers": str(self.groups),
            "maxWorkers": str(self.groups),
        }


CASES = {
    "one-graph": Case(1, "graph"),
    "two-graph": Case(2, "graph"),
    "two-graph-nccl": Case(2, "graph", all_reduce="nccl"),
    "two-groups-graph": Case(1, "graph", groups=2),
    "one-eager": Case(1, "eager"),
    "two-eager": Case(2, "eager"),
}
COLUMNS = (
    "case",
    "ms/token",
    "first ms",
    "16 tok s",
    "tok/s x1",
    "x8",
    "x32",
    "in step",
    "gap",
    "check",
    "ready s",
)


def describe(url: str) -> dict[str, Any]:
    """Return what the server says of the model."""
    with urllib.request.urlopen(f"{url}/models/{NAME}", timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())[0]["models"][0]
    return found


def workers(url: str) -> list[dict[str, Any]]:
    """Return the model's ready groups."""
    groups = describe(url)["workerGroups"]
    return [worker for group in groups for worker in group["workers"] if worker["status"] == "READY"]


def divergence(url: str, asked: list[list[int]], new: int, out: Path) -> dict[str, Any]:
    """Compare served answers with the model's own on one GPU, `eager`.

    Returns:
        Tokens until the first other one of each answer, of how many; and how far that one's logit was below
        the best in the reference, in steps of float16 (0: a tie).
    """
    import torch

    answers, logits = json.loads((out / "reference.json").read_text()), torch.load(out / "logits.pt")
    equal = 0
    gaps = []
    for prompt, answer, places in zip(asked, answers, logits, strict=False):
        served = ask(url, prompt, new).tokens
        place = next((i for i, (a, b) in enumerate(zip(served, answer, strict=True)) if a != b), len(answer))
        equal += place
        if place < len(answer):
            best = float(places[place].max())
            step = 2.0 ** (math.floor(math.log2(abs(best))) - 10)
            gaps.append(round((best - float(places[place][served[place]])) / step, 1))
    return {"equal": equal, "of": sum(map(len, answers)), "gaps": sorted(gaps, reverse=True)}


def recover(url: str, asked: list[int]) -> dict[str, float]:
    """Kill rank 1 with SIGKILL; return the seconds until its group is gone, is ready, and has answered."""
    (before,) = workers(url)
    pids = {rank["rank"]: rank["pid"] for rank in before["ranks"]}
    expected = ask(url, asked, 16).tokens
    began = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    found: dict[str, float] = {}
    while "ready_s" not in found:
        now = workers(url)
        seconds = time.monotonic() - began
        if not now and "noticed_s" not in found:
            found["noticed_s"] = seconds
        if now and now[0]["pid"] != before["pid"]:
            found["ready_s"] = seconds
        if seconds > 300:
            raise TimeoutError("the group did not come back in 300 s")
        time.sleep(0.02)
    if ask(url, asked, 16).tokens != expected:
        raise AssertionError("the group that came back answers otherwise")
    found["answered_s"] = time.monotonic() - began
    return found


def run_case(name: str, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Serve one case and measure it."""
    from model_folder import prompts
    from paths import CAPACITY, PROMPT

    counts = [1, 2, 4] if options.tiny else [1, 8, 32]
    vocabulary = json.loads((options.folder / "config.json").read_text())["vocab_size"]
    asked = prompts(counts[-1], PROMPT, vocabulary)
    reference = json.loads((options.out / "reference.json").read_text())
    rounds = options.rounds if case.path == "graph" else min(2, options.rounds)
    with serve(options.folder, counts[-1], tiny=options.tiny, length=CAPACITY, more=case.properties()) as (
        server,
        ready,
    ):
        try:
            found = measure_served(server.url, asked, options.new, rounds, counts, reference)
            found["divergence"] = divergence(server.url, asked, options.new, options.out)
            found["self_check"] = describe(server.url).get("selfCheck")
            found["workers"] = workers(server.url)
            if name == "two-graph" or (options.tiny and case.degree == 2):
                found["recovery"] = recover(server.url, asked[0])
        finally:
            (options.out / f"{name}.log").write_text(server.log())
    found["ready_s"] = ready
    return found


def row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """Return a case's line of the table."""
    rates = [f"{rate['median']:.0f}" for rate in found["tokens_per_s"].values()]
    same, check = found["divergence"], found["self_check"] or {}
    return (
        name,
        f"{found['token_ms']:.2f}",
        f"{found['first_token_ms']:.1f}",
        f"{found['sixteen_tokens_s']:.3f}",
        *rates,
        f"{same['equal']}/{same['of']}",
        str(max(same["gaps"], default="-")),
        str(check.get("result", "-")),
        f"{found['ready_s']:.0f}",
    )


def print_all(out: Path) -> None:
    """Print the table of all cases that were ever written, and what they are beside each other."""
    found = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in CASES
        if (out / f"{name}.json").exists()
    }
    rows = [COLUMNS, *(row(name, one) for name, one in found.items())]
    widths = [max(len(line[i]) for line in rows) for i in range(len(COLUMNS))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for name in found:
        one = f"one-{CASES[name].path}"
        if CASES[name].degree == 2 and one in found:
            ratio = found[name]["token_ms"] / found[one]["token_ms"]
            print(f"{name}: ms/token is {ratio:.3f} of {one}'s")
    if {"two-groups-graph", "two-graph"} <= found.keys():
        for count, rate in found["two-groups-graph"]["tokens_per_s"].items():
            ratio = rate["median"] / found["two-graph"]["tokens_per_s"][count]["median"]
            print(f"{count} clients: two groups of degree 1 give {ratio:.2f} of one of degree 2's tokens/s")
    if "recovery" in found.get("two-graph", found.get("two-eager", {})):
        print("kill -9 of rank 1, seconds:", found.get("two-graph", found.get("two-eager"))["recovery"])


def prepare(options: argparse.Namespace) -> None:
    """Write the folder and the reference, unless they are there."""
    tiny = ["--tiny"] * options.tiny
    paths = [sys.executable, str(HERE / "gptj_paths.py"), *tiny, "--out", str(options.out)]
    if not (options.folder / "config.json").exists():
        subprocess.run([*paths, "--child", "folder", "--folder", str(options.folder)], check=True)
    if not (options.out / "reference.json").exists():
        subprocess.run([*paths, "--child", "eager", "--new", str(options.new), "--rounds", "2"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated, of " + ", ".join(CASES))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--folder", type=Path, default=Path("gpu-model"), help="where the model is written")
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    parser.add_argument("--new", type=int, default=64, help="new tokens")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.folder, options.out = options.folder.resolve(), options.out.resolve()
    prepare(options)
    failed = []
    for name in filter(None, options.cases.split(",")):
        began = time.monotonic()
        try:
            found = run_case(name, CASES[name], options)
        except Exception as error:  # noqa: BLE001  # one case that fails costs its own line
            failed.append(f"{name}: {type(error).__name__}: {str(error)[-3000:]}")
        else:
            (options.out / f"{name}.json").write_text(json.dumps(found, indent=1))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    print_all(options.out)
    print(*failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

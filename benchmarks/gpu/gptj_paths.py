"""GPT-J-6B on one GPU: per-token latency, first token, tokens/s and agreement of each path, side by side.

    python benchmarks/gpu/gptj_paths.py --paths eager,graph,autotp-graph,inject --out results
    python benchmarks/gpu/gptj_paths.py --tiny --paths eager,graph-uncompiled    # does it run here?

Every path runs in a process of its own: one that breaks its device costs its own line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEAD = (
    "path",
    "ms/token",
    "spread",
    "first ms",
    "16 tok s",
    "tok/s x1",
    "x8",
    "x32",
    "equal",
    "all slots",
    "gap",
    "load s",
    "GiB",
)


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """Return a path's line of the table."""
    token = found["token_ms"]
    rates = [f"{rate['median']:.0f}" for rate in found["tokens_per_s"].values()]
    same = found["agreement"]
    together = same.get("together")
    return (
        found["path"],
        f"{token['median']:.2f}",
        f"{token['low']:.2f}-{token['high']:.2f}",
        f"{found['first_token_ms']['median']:.1f}",
        f"{found['sixteen_tokens_s']['median']:.3f}",
        *[*rates, "-", "-"][:3],
        f"{same['equal']}/{same['of']}",
        f"{together['equal']}/{together['of']}" if together else "-",
        str(max([*same["gaps"], *(together or {"gaps": []})["gaps"]], default="-")),
        f"{found['load_s']:.1f}",
        f"{found.get('memory_gib', 0):.1f}",
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Return aligned columns under HEAD."""
    widths = [max(len(line[i]) for line in [HEAD, *rows]) for i in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in [HEAD, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def run_path(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one path in a child process; returns what it found, or how it failed."""
    began = time.monotonic()
    passed = [flag for flag in ("tiny", "quick", "profile") if getattr(options, flag)]
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        "--out",
        str(options.out),
        "--new",
        str(options.new),
    ]
    command += ["--rounds", str(options.rounds), *(f"--{flag}" for flag in passed)]
    try:
        ended = subprocess.run(command, timeout=options.timeout, check=False, env=os.environ).returncode
    except subprocess.TimeoutExpired:
        ended = -1
    print(f"{name}: exit {ended} after {time.monotonic() - began:.0f} s", flush=True)
    written = options.out / f"{name.partition(':')[0]}.json"
    if ended != 0:
        return {"path": name, "failed": ended}
    return dict(json.loads(written.read_text()))


def serve_again(found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Serve the model, with what the raw path has compiled before."""
    if not (options.folder / "config.json").exists():
        command = [sys.executable, __file__, "--child", "folder", "--folder", str(options.folder)]
        subprocess.run(command + ["--tiny"] * options.tiny, check=True)
    from paths import CAPACITY
    from served_paths import run_served

    raw = next(one for one in found if one["path"] == options.served)
    run_served(
        options.folder, options.out, raw, tiny=options.tiny, new=options.new, rounds=options.rounds,
        length=CAPACITY,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", default="eager,graph", help="comma-separated; eager goes first, once")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--served", help="also through `frame serve`, beside this path's raw loop: graph")
    parser.add_argument("--folder", type=Path, default=Path("gpu-model"), help="where that model is written")
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    parser.add_argument("--quick", action="store_true", help="prepare only the sizes measured here")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    parser.add_argument("--new", type=int, default=64, help="new tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=300, help="seconds a path may take")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.child == "folder":
        from model_folder import make_model, save_folder

        save_folder(make_model(tiny=options.tiny), options.folder)
        return
    if options.child:
        from measure import run_child

        run_child(
            options.child,
            options.out,
            tiny=options.tiny,
            quick=options.quick,
            new=options.new,
            rounds=options.rounds,
            profiled=options.profile,
        )
        return
    found = [run_path(name, options) for name in options.paths.split(",")]
    print(table([row(one) for one in found if "failed" not in one]))
    if options.served:
        serve_again(found, options)
    failed = [one["path"] for one in found if "failed" in one]
    if failed:
        print("failed:", ", ".join(failed))
    (options.out / "results.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

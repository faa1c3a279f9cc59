"""Run every example request by its framework alone and write the known answers.

Usage: python examples/make_answers.py [--out DIR] [--full]

Without --out the known answers beside the request files are written anew; --full writes whole answers too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import direct
from build_store import STORE
from cases import HERE, Case, read_cases

TOLERANCE = 1e-4  # absolute; processors differ by 1e-6, a wrong answer by far more
DIGITS = 6


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the answers of all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "requests")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--full", action="store_true", help="write <request>.full.json with the whole answer")
    given = parser.parse_args(arguments)
    for case in read_cases():
        answer = direct.run(case.model, case.request_file.read_bytes(), given.store / case.model)
        folder = given.out / case.model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / case.known_name).write_text(known(case, answer))
        if given.full:
            (folder / case.known_name.replace(".known.", ".full.")).write_text(json.dumps(answer))
        print(f"{case.model}/{case.known_name}", flush=True)


def known(case: Case, answer: Any) -> str:
    """Return the text of a known answer: what it says, the tolerance, and the excerpts with their paths."""
    parts = [{"path": list(path), "equals": rounded(follow(answer, path))} for path in case.excerpt]
    head = json.dumps({"says": case.says, "tolerance": TOLERANCE}, indent=2).removesuffix("\n}")
    lines = ",\n    ".join(json.dumps(part) for part in parts)
    return f'{head},\n  "parts": [\n    {lines}\n  ]\n}}\n'


def follow(answer: Any, path: Sequence[str | int]) -> Any:
    """Return what stands at `path` in a JSON value."""
    for step in path:
        answer = answer[step]
    return answer


def rounded(value: Any) -> Any:
    """Return a JSON value with its numbers rounded."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, DIGITS) + 0.0 if isinstance(value, float) else value


if __name__ == "__main__":
    main()

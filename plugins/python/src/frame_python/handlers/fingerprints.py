"""Name a model, its libraries and settings by a digest; keep what a self-check found under that name."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from frame_python.handlers.verdicts import Report

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".model", ".txt")
_BLOCK = 1 << 16
_BLOCKS = 16


def fingerprint(folder: str, facts: Mapping[str, object], *, with_times: bool) -> str:
    """Return a digest of a model folder's weights and tokenizer, and of `facts` (versions, settings).

    Of each file its name, size and 16 blocks spread over it are read: 1 MiB a file, not 300 GB.

    Args:
        folder: with the files of a transformers model, at its top level.
        facts: JSON values.
        with_times: also the times of the files' last change: for what must notice a change of few weights in
            place, and need not survive a copy of the folder.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted(Path(folder).iterdir()):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        status = path.stat()
        times = f" {status.st_mtime_ns}" if with_times else ""
        digest.update(f"\n{path.name} {status.st_size}{times} ".encode())
        with path.open("rb") as file:
            for index in range(_BLOCKS):
                file.seek(index * max(_BLOCK, status.st_size // _BLOCKS))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:32]


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's folder for what may be computed again."""
    home = environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path(environ.get("HOME", "/nonexistent")) / ".cache"
    return base / "frame" / "self_check"


def load_pass(folder: Path, key: str) -> Report | None:
    """Return the pass that was saved under `key`; None when there is none that can be read."""
    try:
        plain = json.loads((folder / f"{key}.json").read_text())
        report = Report(**plain)
    except (OSError, ValueError, TypeError):
        return None
    return report if report.result == "passed" else None


def save_pass(folder: Path, key: str, report: Report) -> None:
    """Save a pass, whole or not at all. Where it cannot be written, the next start checks again."""
    if report.result != "passed":
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, suffix=".part") as file:
            json.dump(report.plain(), file)
        Path(file.name).replace(folder / f"{key}.json")
    except OSError:
        return

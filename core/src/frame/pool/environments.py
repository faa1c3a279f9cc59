"""A virtual environment for each model with requirements of its own: clashing needs live side by side."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from frame.errors import LoadError
from frame.pool.environ import is_allowed

_log = logging.getLogger(__name__)
_STAMP = ".frame-ready"
_LOCK_POLL = 0.2
_BASE_PATHS = "import json,sys; print(json.dumps([p for p in sys.path if p.endswith(('-packages'))]))"
_PIP_PREFIXES = ("PIP_", "DJL_OFFLINE", "XDG_", "VIRTUAL_ENV")
_OUTPUT_CHARACTERS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRequest:
    """What an environment is made from.

    Attributes:
        model: for messages.
        folder: the model directory; its `requirements.txt` is installed, its `requirements/` holds local
            wheels.
        interpreter: the Python executable that the environment is made with; its packages stay visible behind
            the environment's own.
        cache: the folder that environments are kept in, one for each different request.
        timeout: seconds for all of it.
        environ: the server's; pip sees its own settings and what workers see.
    """

    model: str
    folder: Path
    interpreter: str
    cache: Path
    timeout: float
    environ: Mapping[str, str]


async def make_environment(request: EnvironmentRequest) -> str:
    """Return the interpreter of an environment with the model's requirements; made once and then reused.

    Raises:
        LoadError: pip failed, or time ran out; the message has the end of its output.
    """
    target = request.cache / _key(request)
    python = target / "bin" / "python"
    try:
        async with asyncio.timeout(request.timeout), _locked(target.with_suffix(".lock")):
            if not (target / _STAMP).exists():
                shutil.rmtree(target, ignore_errors=True)
                _log.info("environment_made model=%s path=%s", request.model, target)
                await _build(request, target)
                (target / _STAMP).touch()
    except TimeoutError:
        raise LoadError(
            f"requirements: not installed within {request.timeout:g} s (option.model_loading_timeout)"
        ) from None
    return str(python)


def _key(request: EnvironmentRequest) -> str:
    requirements = request.folder / "requirements.txt"
    text = requirements.read_bytes() if requirements.exists() else b""
    local = (request.folder / "requirements").glob("*")
    wheels = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in local)
    parts = [request.interpreter, sys.version, json.dumps(wheels)]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + text).hexdigest()[:24]


async def _build(request: EnvironmentRequest, target: Path) -> None:
    """Make the environment and install into it.

    The base interpreter's packages are put behind the environment's own by a `.pth` file: when that
    interpreter is itself in a virtual environment, `--system-site-packages` would show those of the system
    instead.
    """
    await _run(request, [request.interpreter, "-m", "venv", "--without-pip", str(target)])
    paths = json.loads((await _run(request, [request.interpreter, "-c", _BASE_PATHS])).splitlines()[-1])
    site_packages = next((target / "lib").glob("python*/site-packages"))
    (site_packages / "_frame_base.pth").write_text("".join(f"{path}\n" for path in paths))
    requirements = request.folder / "requirements.txt"
    if not requirements.exists():
        return
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(target / "bin" / "python"),
        "install",
        "--no-input",
        "-q",
    ]
    pip += ["--disable-pip-version-check", "-r", str(requirements)]
    if (request.folder / "requirements").is_dir():
        pip += ["-f", str(request.folder / "requirements")]
    if request.environ.get("DJL_OFFLINE", "").lower() == "true":
        pip += ["--no-index"]
    await _run(request, pip)


async def _run(request: EnvironmentRequest, argv: Sequence[str]) -> str:
    """Run one command; it ends with this coroutine, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={name: value for name, value in request.environ.items() if _may_see(name)},
        cwd=request.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    text = output.decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise LoadError(f"requirements: {' '.join(argv[1:4])} failed: {text[-_OUTPUT_CHARACTERS:]}")
    return text


def _may_see(name: str) -> bool:
    """Tell whether pip, and the set-up code of what it installs, may see a variable of the server."""
    return is_allowed(name) or name.startswith(_PIP_PREFIXES) or name.lower().endswith("_proxy")


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a file lock, so that two servers do not make one environment at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL)
        yield

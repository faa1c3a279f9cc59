"""Download a model into the cache: in a process of its own, whole or not at all, each content once.

Invariants:
- A folder in the cache without `.partial-` is complete, and named by url and content version.
- What a broken connection left is gone on with, also by a later process, unless the file changed meanwhile.
- Nothing is written outside the folder; paths that a source names are checked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from frame.contract.sources import RemoteFile, RemoteModel, SourceChangedError, SourceContext, SourceError
from frame.worker.guard import die_with_parent

Report = Callable[[int, int | None], None]

_MOST_CHANGES = 3
_MOST_FAILURES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_SPARE_BYTES = 64 << 20
_MOST_FILES = 10_000
_REPORT_SECONDS = 0.5
_PARTIAL = ".partial-"


class DiskFullError(SourceError):
    """There is no room for the model."""


def download(remote: RemoteModel, url: str, cache: Path, report: Report, checksum: str = "") -> Path:
    """Return the folder with the files of a model, downloading what is not in the cache yet.

    Args:
        cache: folder of all downloads.
        report: told how many bytes are here, and of how many.
        checksum: SHA-256 that its only file must have; empty: any.

    Raises:
        SourceError: it cannot be had.
        OSError: the connection failed too often, or the cache cannot be written.
    """
    place = cache / hashlib.sha256(url.encode()).hexdigest()[:32]
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(place):
        for _ in range(_MOST_CHANGES):
            files = _checked(_patiently(remote.files), checksum)
            target = place / _digest(files)
            if target.is_dir():
                return target
            partial = place / f"{_PARTIAL}{target.name}"
            _drop_partials(place, but=partial)
            try:
                _Download(remote, files, partial, report).run()
            except SourceChangedError:
                shutil.rmtree(partial, ignore_errors=True)
                continue
            except DiskFullError:
                shutil.rmtree(partial, ignore_errors=True)  # others need the room
                raise
            partial.rename(target)
            return target
    raise SourceError(f"it changed {_MOST_CHANGES} times while it was downloaded")


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Wait for other downloads of the same url: what they leave is not fetched again."""
    with (place / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the server ends this process when its time is over
        yield


def _drop_partials(place: Path, *, but: Path) -> None:
    for left in place.glob(f"{_PARTIAL}*"):
        if left != but:
            shutil.rmtree(left, ignore_errors=True)


def _patiently(files: Callable[[], Sequence[RemoteFile]]) -> Sequence[RemoteFile]:
    for pause in _pauses():
        try:
            return files()
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last pause is None")


def _pauses() -> Iterator[float | None]:
    """Yield how long to wait after each failure; None after the last."""
    pause = _FIRST_PAUSE
    for _ in range(_MOST_FAILURES - 1):
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
    yield None


def _checked(files: Sequence[RemoteFile], checksum: str) -> Sequence[RemoteFile]:
    """Return the files; raise `SourceError` for paths that leave the folder."""
    if not files or len(files) > _MOST_FILES:
        raise SourceError(f"it has {len(files)} files; expected 1 to {_MOST_FILES}")
    for file in files:
        parts = PurePosixPath(file.path).parts
        is_plain = all(32 <= ord(letter) != 127 for letter in file.path)  # noqa: PLR2004  # control characters
        if not parts or ".." in parts or "\\" in file.path or file.path.startswith("/") or not is_plain:
            raise SourceError(f"it has a file of the name {file.path!r}")
    if len({str(PurePosixPath(file.path)) for file in files}) < len(files):
        raise SourceError("two of its files have the same name")
    if not checksum:
        return files
    if len(files) > 1:
        raise SourceError(f"#sha256= is for a single file; it has {len(files)}")
    (file,) = files
    return [
        RemoteFile(
            path=file.path, size_bytes=file.size_bytes, version=file.version, checksums={"sha256": checksum}
        )
    ]


def _digest(files: Sequence[RemoteFile]) -> str:
    facts = sorted(
        (file.path, file.size_bytes, file.version, *sorted(file.checksums.items())) for file in files
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class _Download:
    """All files of one content version into one folder."""

    def __init__(
        self, remote: RemoteModel, files: Sequence[RemoteFile], folder: Path, report: Report
    ) -> None:
        self._remote = remote
        self._files = files
        self._folder = folder
        self._report = report
        self._reported = 0.0
        sizes = [file.size_bytes for file in files]
        self._total = None if None in sizes else sum(size for size in sizes if size is not None)
        self._done = 0

    def run(self) -> None:
        """Fetch what is missing."""
        self._folder.mkdir(exist_ok=True)
        here = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        self._check_room((self._total or 0) - here)
        for file in self._files:
            path = self._folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(file, path)
            self._done += path.stat().st_size
            self._report(self._done, self._total)

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        """Fetch one file; a failure after some more bytes does not count."""
        pauses = _pauses()
        while True:
            before = _size(path)
            try:
                self._go_on(file, path, before)
            except OSError:
                if _size(path) > before:
                    pauses = _pauses()
                pause = next(pauses)
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                return

    def _go_on(self, file: RemoteFile, path: Path, offset: int) -> None:
        if offset == 0 or offset != file.size_bytes:
            with path.open("ab") as sink, contextlib.closing(_iterate(self._remote, file, offset)) as chunks:
                for chunk in chunks:
                    self._write(sink.write, chunk)
                    offset += len(chunk)
                    if file.size_bytes is not None and offset > file.size_bytes:
                        raise SourceChangedError(file.path)
                    self._progressed(offset)
                self._write(lambda _: sink.flush(), b"")
                os.fsync(sink.fileno())
        if file.size_bytes is not None and offset < file.size_bytes:
            raise OSError(f"{file.path}: the connection ended after {offset} of {file.size_bytes} bytes")
        for name, expected in file.checksums.items():
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            if found != expected.lower():
                path.unlink()
                raise SourceError(f"{file.path}: its {name} is {found}, expected {expected}")

    def _write(self, write: Callable[[bytes], object], chunk: bytes) -> None:
        try:
            write(chunk)
        except OSError as error:  # the disk, not the connection: trying again does not help
            message = f"{self._folder.parent}: cannot be written: {error.strerror}"
            raise (DiskFullError if error.errno == errno.ENOSPC else SourceError)(message) from error

    def _progressed(self, offset: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self._done + offset, self._total)
            self._check_room(0)

    def _check_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < wanted + _SPARE_BYTES:
            disk = f"{free >> 20} MiB are free on the disk"
            raise DiskFullError(f"{self._folder.parent}: {wanted >> 20} MiB are to come and {disk}")


def _iterate(remote: RemoteModel, file: RemoteFile, offset: int) -> Generator[bytes]:
    yield from remote.read(file, offset)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOrder:
    """What the server tells the download process, as JSON on its standard input.

    Attributes:
        target: of the `ModelSource`.
        timeout: of a connection attempt and of a read, seconds.
    """

    parent: int
    target: str
    url: str
    cache: str
    checksum: str
    allows_private: bool
    timeout: float


def main() -> int:
    """Do one order; write progress and the end as JSON lines to standard output."""
    order = DownloadOrder(**json.load(sys.stdin))
    die_with_parent(order.parent)
    _keep_output()
    try:
        folder = download(_open(order, os.environ), order.url, Path(order.cache), _say, order.checksum)
    except SourceError as error:
        _tell({"error": str(error)})
    except ImportError as error:
        _tell({"error": f"its source cannot be imported: {error}"})
    except OSError as error:
        what = " (no space is left on the disk)" if error.errno == errno.ENOSPC else ""
        _tell({"error": f"{error}{what}"})
    else:
        _tell({"folder": str(folder)})
    return 0


def _open(order: DownloadOrder, environ: Mapping[str, str]) -> RemoteModel:
    module, _, name = order.target.partition(":")
    kind = getattr(importlib.import_module(module), name)
    context = SourceContext(environ=environ, allows_private=order.allows_private, timeout=order.timeout)
    remote: RemoteModel = kind(order.url, context)
    return remote


def _say(done: int, total: int | None) -> None:
    _tell({"done": done, "total": total})


def _tell(line: Mapping[str, object]) -> None:
    os.write(_OUTPUT[0], json.dumps(line).encode() + b"\n")


_OUTPUT = [1]
"""Where the server reads."""


def _keep_output() -> None:
    """Let what a source prints go to standard error: the server reads lines of JSON."""
    _OUTPUT[0] = os.dup(1)
    os.dup2(2, 1)


if __name__ == "__main__":
    sys.exit(main())

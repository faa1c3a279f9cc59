"""Fetch models from where their urls point, each by a process of its own with a time limit."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from frame.contract.sources import ModelSource
from frame.errors import StoreError
from frame.store.download import DownloadOrder
from frame.store.urls import scheme_of

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.1
_LOG_SECONDS = 10.0
_READ_TIMEOUT = 30.0
_LINES = 5
_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SECRETS = ("FRAME_MANAGEMENT_TOKEN", "FRAME_INFERENCE_TOKEN")

Progress = Callable[[str], None]


def _tell_nobody(text: str) -> None:
    del text


@dataclass(frozen=True, slots=True)
class Watch:
    """Whoever waits for a model.

    Attributes:
        progress: told in words how far it is, by the thread that fetches.
        stop: set to end the download.
    """

    progress: Progress = _tell_nobody
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Brings models to this machine; `fetch` blocks, and may be called by several threads.

    Attributes:
        cache: folder of downloads.
        timeout: seconds for one model (`model_download_timeout`).
        environ: of the server; sources find their credentials in it.
        allows_private: urls that were registered may point at private addresses.
        ended: set when the server ends: downloads stop.
    """

    sources: Sequence[ModelSource]
    cache: Path
    timeout: float
    environ: Mapping[str, str]
    allows_private: bool
    ended: threading.Event = field(default_factory=threading.Event)

    def fetch(self, location: str, watch: Watch, *, is_trusted: bool) -> Path:
        """Return the folder of a model's files.

        Args:
            location: a url with a scheme, and perhaps `#sha256=`.
            is_trusted: whoever started the server wrote it.

        Raises:
            StoreError: no source takes the url, or it cannot be had, or not in time.
        """
        url, sign, fragment = location.partition("#")
        checksum = _CHECKSUM.fullmatch(fragment)
        if sign and checksum is None:
            raise StoreError(f"{location}: expected #sha256= and 64 hexadecimal digits")
        source = self._source_of(location)
        order = DownloadOrder(
            parent=os.getpid(),
            target=source.target,
            url=url,
            cache=str(self.cache),
            checksum=checksum[1].lower() if checksum else "",
            allows_private=is_trusted or self.allows_private,
            timeout=min(_READ_TIMEOUT, self.timeout),
        )
        _log.info("model_download_started url=%s", url)
        started = time.monotonic()
        folder = _Child(self, order, watch).run()
        seconds = time.monotonic() - started
        _log.info("model_download_done url=%s seconds=%.1f path=%s", url, seconds, folder)
        return folder

    def _source_of(self, location: str) -> ModelSource:
        scheme = scheme_of(location)
        found = next((source for source in self.sources if scheme in source.schemes), None)
        if found is None:
            known = ", ".join(
                f"{name}:" for name in ("file", *(s for item in self.sources for s in item.schemes))
            )
            raise StoreError(f"{location}: no source has the scheme {scheme}: (there are {known})")
        for module, command in found.requires.items():
            if importlib.util.find_spec(module) is None:
                raise StoreError(f"{location}: {scheme}: needs {module}: {command}")
        return found

    def child_environment(self) -> dict[str, str]:
        """Return the environment of a download: the server's, but for what is the server's alone."""
        return {key: value for key, value in self.environ.items() if key not in _SECRETS}


class _Child:
    """One download process, until it has ended."""

    def __init__(self, fetcher: Fetcher, order: DownloadOrder, watch: Watch) -> None:
        self._fetcher = fetcher
        self._order = order
        self._watch = watch
        self._end: dict[str, object] = {}
        self._words = "nothing is here yet"
        self._logged = time.monotonic()

    def run(self) -> Path:
        """Return the folder; raises `StoreError`."""
        command = [sys.executable, "-m", "frame.store.download"]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._fetcher.child_environment(),
            ) as process,
        ):
            try:
                self._drive(process)
            finally:
                if process.poll() is None:
                    process.kill()
            process.wait()
            lines = _last_lines(errors)
        if "folder" in self._end:
            return Path(str(self._end["folder"]))
        if "error" in self._end:
            raise StoreError(f"{self._order.url}: {self._end['error']}")
        _log.error("model_download_broken url=%s wrote=%s", self._order.url, " | ".join(lines))
        raise StoreError(f"{self._order.url}: its download broke, status {process.returncode}; see the log")

    def _drive(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already, and says why
            process.stdin.write(json.dumps(asdict(self._order)).encode())
            process.stdin.close()
        deadline = time.monotonic() + self._fetcher.timeout
        lines = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                self._check(deadline)
                if not selector.select(_LOOK_SECONDS):
                    continue
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    return
                *whole, lines = (lines + read).split(b"\n")
                for line in whole:
                    self._take(json.loads(line))

    def _check(self, deadline: float) -> None:
        if self._fetcher.ended.is_set() or self._watch.stop.is_set():
            raise StoreError(f"{self._order.url}: the download was stopped; {self._words}")
        if time.monotonic() > deadline:
            raise StoreError(
                f"{self._order.url}: not downloaded within {self._fetcher.timeout:g} s "
                f"(model_download_timeout): {self._words}; the next try goes on from there"
            )

    def _take(self, line: dict[str, object]) -> None:
        if "done" not in line:
            self._end = line
            return
        done, total = line["done"], line["total"]
        of = f" of {_megabytes(total)}" if isinstance(total, int) else ""
        self._words = f"{_megabytes(done)}{of} MB are here"
        self._watch.progress(self._words)
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            _log.info("model_download url=%s progress=%s", self._order.url, self._words)


def _megabytes(count: object) -> str:
    return f"{count / 1e6:.1f}" if isinstance(count, int) else "?"


def _last_lines(stream: IO[bytes]) -> list[str]:
    stream.seek(0)
    text = stream.read().decode("utf-8", "replace")
    return text.strip().splitlines()[-_LINES:]

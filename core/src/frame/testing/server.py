"""`frame serve` as a process of its own, on a port that the kernel chose; ended with the `with` block."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

_READY = re.compile(r"server_ready address=(\S+)")
_POLL_SECONDS = 0.05


class ServerError(Exception):
    """The server did not start or end as it should; the message has the end of its log."""


class Server:
    """A running server.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        pid: of the router.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid
        self.url = ""

    def log(self) -> str:
        """Return all that the server and its workers have written."""
        return self._log.read_text(errors="replace")

    def wait_ready(self, timeout: float) -> None:
        """Wait until the server listens.

        Raises:
            ServerError: it ended, or did not listen in time.
        """
        found = self.wait_for_log(_READY.pattern, timeout)
        self.url = found[1]

    def wait_for_log(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until `pattern` is in the log; return the match.

        Raises:
            ServerError: the server ended first, or time ran out.
        """
        deadline = time.monotonic() + timeout
        while True:
            has_ended = self._process.poll() is not None
            found = re.search(pattern, self.log())
            if found is not None:
                return found
            if has_ended or time.monotonic() > deadline:
                what = (
                    f"ended with {self._process.returncode}"
                    if has_ended
                    else f"no {pattern!r} in {timeout:g} s"
                )
                raise ServerError(f"server: {what}\n{self.log()[-4000:]}")
            time.sleep(_POLL_SECONDS)

    def send_signal(self, number: int) -> None:
        """Send a signal to the router."""
        self._process.send_signal(number)

    def wait_ended(self, timeout: float = 30.0) -> int:
        """Wait for the router's end and return its exit status.

        Raises:
            ServerError: it did not end in time; it is killed.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ServerError(f"server: did not end in {timeout:g} s\n{self.log()[-4000:]}") from None

    def stop(self, timeout: float = 60.0) -> int:
        """Ask the server to end and return its exit status; harmless when it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait_ended(timeout)


@contextmanager
def run_server(
    store: Path | str | None,
    arguments: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    waits_ready: bool = True,
) -> Iterator[Server]:
    """Serve `store` while the block runs.

    Args:
        arguments: more of `frame serve`.
        environ: variables on top of this process's own.
        timeout: seconds until the server must listen.
        waits_ready: False gives the block a server that may not listen yet (or never will).

    Raises:
        ServerError: it ended or did not listen in time.
    """
    with _started(store, arguments, environ or {}) as server:
        try:
            if waits_ready:
                server.wait_ready(timeout)
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def run_server_async(
    store: Path | str | None,
    arguments: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    timeout: float = 60.0,  # the server's to listen, not this call's
) -> AsyncIterator[Server]:
    """Serve `store` while the block runs, as `run_server` does; the event loop goes on meanwhile.

    Raises:
        ServerError: it ended or did not listen in time.
    """
    with _started(store, arguments, environ or {}) as server:
        try:
            await asyncio.to_thread(server.wait_ready, timeout)
            yield server
        finally:  # when this task is cancelled too: what waits in a thread ends with the process
            await asyncio.to_thread(server.stop)


@contextmanager
def _started(
    store: Path | str | None, arguments: Sequence[str], environ: Mapping[str, str]
) -> Iterator[Server]:
    """Start a server, which writes its log into a folder that lasts as long as the block."""
    with tempfile.TemporaryDirectory(prefix="frame-test-") as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "frame", "serve", "--port", "0", *arguments]
        if store is not None:
            command.append(str(store))
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        yield Server(process, log)

"""Runs the code blocks of a page one after the other, as a reader would: in one shell, in one folder."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.docs.pages import fences

SHELL_SECONDS = 300.0
DONE = "@@ block done @@"
PORTS = ("8080", "8081", "8082", "9090")
PATH_LINE = re.compile(r"# ([\w./-]+\.\w+)\b[^\n]*\n")
SERVE = re.compile(r"^((?:\w+=\S+ )*frame serve\b[^\n&]*)(?:&| *)$", re.MULTILINE)
READY = """
ready() {
    for _ in $(seq 1200); do
        kill -0 $! && ! grep -qs model_failed server.log || break
        curl -o /dev/null http://127.0.0.1:$1/ping 2> /dev/null && return 0
        sleep 0.1
    done
    cat server.log
    return 1
}
"""


class Stage:
    """A page's blocks, a folder and a shell.

    Without `has_frame` the shell does not find what is installed here. Ports of the pages become free ones.
    `frame serve` runs in the background, and the next line waits until all its models are up.
    """

    def __init__(self, name: str, folder: Path, *, has_frame: bool = True) -> None:
        self.folder = folder
        self._blocks = [fence for fence in fences(name) if fence.language not in {"", "text"}]
        self._ports = {port: str(free_port()) for port in PORTS}
        self._replace = dict(self._ports)
        self._lines: queue.Queue[str | None] = queue.Queue()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAME_")}
        here = str(Path(sys.executable).parent)
        others = [path for path in environ["PATH"].split(":") if path != here]
        environ["PATH"] = ":".join([here, *others] if has_frame else others)
        environ["SERVING_INFERENCE_ADDRESS"] = f"http://127.0.0.1:{self._ports['8080']}"
        environ["CURL_HOME"] = str(folder)
        (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        self._shell: Any = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.shell(f"set -eo pipefail\n{READY}")

    @property
    def url(self) -> str:
        """Return the address that the pages call http://127.0.0.1:8080."""
        return self.url_of("8080")

    def url_of(self, port: str) -> str:
        """Return the address of what the pages say is at a port."""
        return f"http://127.0.0.1:{self._ports[port]}"

    def rest(self) -> list[str]:
        """Return the blocks that were not run."""
        return [block.text for block in self._blocks]

    def block(self, language: str) -> str:
        """Take the next block, which is of this language; return its text."""
        block = self._blocks.pop(0)
        assert block.language == language, block
        text = block.text
        for old, new in self._replace.items():
            text = text.replace(old, new)
        return text

    def file(self, language: str) -> Path:
        """Write the next block to the path that its first line names."""
        text = self.block(language)
        named = PATH_LINE.match(text)
        assert named is not None, text
        path = self.folder / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def python(self) -> dict[str, Any]:
        """Run the next block, a module; return its names."""
        names: dict[str, Any] = {}
        exec(compile(self.block("python"), "block", "exec"), names)  # our own pages
        return names

    def run(self) -> str:
        """Run the next block, of shell commands; return what it wrote."""
        return self.shell(self.block("sh"))

    def replace(self, old: str, new: str) -> None:
        """Change what the blocks from here on say, where it cannot be so on this machine."""
        self._replace[old] = new

    def console(self) -> tuple[str, str]:
        """Run the next block, a command after `$` and what it wrote; return what it wrote here, and there."""
        text = self.block("console").removeprefix("$ ")
        command, printed = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        return self.shell(command), printed

    def shell(self, text: str) -> str:
        """Run commands; return what they wrote. A command that fails is an error."""
        self._shell.stdin.write(f"{SERVE.sub(self._in_background, text)}\necho; echo '{DONE}'\n")
        self._shell.stdin.flush()
        said: list[str] = []
        deadline = time.monotonic() + SHELL_SECONDS
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"a command failed:\n{text}\n{''.join(said)[-6000:]}"
            if line.strip() == DONE:
                return "".join(said)
            said.append(line)

    def _in_background(self, command: re.Match[str]) -> str:
        port = re.search(r"--port (\d+)", command[1])
        return f"{command[1]} > server.log 2>&1 &\nready {port[1] if port else self._ports['8080']}"

    def _read(self) -> None:
        for line in self._shell.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def register(self, name: str, version: str, folder: Path) -> None:
        """Serve one more version."""
        asked = {"url": str(folder), "model_name": name, "model_version": version}
        answer = httpx.post(f"{self.url}/models", params=asked, timeout=60)
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        """End the servers, then the shell, and wait for both."""
        with contextlib.suppress(BrokenPipeError):  # the shell ended at a command that failed
            self._shell.stdin.write("kill $(jobs -p) 2> /dev/null || true\nwait\nexit\n")
            self._shell.stdin.close()
        try:
            self._shell.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)  # what a failed shell left running
            self._shell.wait()
            self._reader.join()
            self._shell.stdout.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

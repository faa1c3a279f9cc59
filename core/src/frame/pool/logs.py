"""Drain a worker's stdout and stderr into the log, line by line, and remember the last ones."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

_log = logging.getLogger("frame.worker.output")
_LINE_BYTES = 8192
"""A longer line is cut into several, so that a worker that never ends its line cannot fill the memory."""
TAIL_LINES = 40


class LogDrain:
    """The output of one worker group."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    async def drain(self, stream: asyncio.StreamReader) -> None:
        """Read until the end of the stream."""
        rest = b""
        while chunk := await stream.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line)
            while len(rest) > _LINE_BYTES:
                self._emit(rest[:_LINE_BYTES])
                rest = rest[_LINE_BYTES:]
        if rest:
            self._emit(rest)

    def _emit(self, line: bytes) -> None:
        text = line[: 4 * _LINE_BYTES].decode("utf-8", "replace").rstrip()
        if text:
            self.tail.append(text)
            _log.info("[%s] %s", self._prefix, text)

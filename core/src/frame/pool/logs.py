"""Drain a worker's stdout and stderr into the log, line by line, and remember the last ones."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

_log = logging.getLogger("frame.worker.output")
_LINE_BYTES = 8192
"""A longer line is cut into several, so that a worker that never ends its line cannot fill the memory."""
_CHARACTER_BYTES = 4
"""Most bytes of a character in UTF-8."""
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
                self._emit(self._emit_full(line))
            rest = self._emit_full(rest)
        self._emit(rest)

    def _emit_full(self, line: bytes) -> bytes:
        """Emit pieces of a line that is too long, and return what is left: at most `_LINE_BYTES`."""
        while len(line) > _LINE_BYTES:
            cut = _LINE_BYTES
            while cut > _LINE_BYTES - _CHARACTER_BYTES and line[cut] & 0xC0 == 0x80:  # noqa: PLR2004  # inside UTF-8
                cut -= 1
            self._emit(line[:cut])
            line = line[cut:]
        return line

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self.tail.append(text)
            _log.info("[%s] %s", self._prefix, text)

"""A language model in the shape of an asynchronous LLM engine: a loop of its own, one batch for all requests.

`generate` is an asynchronous iterator of tokens; whoever stops to iterate aborts the request. In its place
a real engine's own class would stand.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

VOCABULARY = "a be see do go up at in on it is he we me my no so us".split()  # noqa: SIM905


class AsyncToyEngine:
    """Gives each running request its next token, at every step; new ones join between two steps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running: dict[str, tuple[str, int, asyncio.Queue[str | None]]] = {}
        self._wanted = asyncio.Event()
        self._loop = asyncio.run_coroutine_threadsafe(self._run(), loop)

    async def generate(self, prompt: str, max_tokens: int, request_id: str) -> AsyncIterator[str]:
        """Yield the tokens of an answer."""
        tokens: asyncio.Queue[str | None] = asyncio.Queue()
        self._running[request_id] = (prompt, max_tokens, tokens)
        self._wanted.set()
        try:
            while (token := await tokens.get()) is not None:
                yield token
        finally:
            self._running.pop(request_id, None)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            for request_id, (text, left, tokens) in list(self._running.items()):
                if not left:
                    del self._running[request_id]
                    tokens.put_nowait(None)
                    continue
                token = VOCABULARY[zlib.crc32(text.encode()) % len(VOCABULARY)]
                self._running[request_id] = (f"{text} {token}", left - 1, tokens)
                tokens.put_nowait(token)
            if not self._running:
                self._wanted.clear()
            await asyncio.sleep(0)  # others of this loop run between two steps

    def shutdown(self) -> None:
        """End the loop."""
        self._loop.cancel()

"""Turns of large bodies: so many pieces are taken in before the loop looks after everything else again."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets at most `most` (>= 1) pieces through in one round of the event loop, first come, first served.

    Who waits here does not read on, so its connection stops reading: many uploads slow each other down, and
    not the requests beside them. Nobody holds a turn while it waits for its client.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_round_due = False

    async def take(self) -> None:
        """Go on in this round of the loop, or in the first one that has room."""
        self._ask_round()
        if self._taken < self._most:  # nobody waits then, or they had been let through
            self._taken += 1
            return
        turn = self._loop.create_future()
        self._waiting.append(turn)
        await turn

    def _ask_round(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            self._loop.call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._is_round_due = False
        self._taken = 0
        while self._waiting and self._taken < self._most:
            turn = self._waiting.popleft()
            if not turn.done():  # else its request was cancelled
                turn.set_result(None)
                self._taken += 1
        if self._taken:
            self._ask_round()

"""Work that is given up when an event is set."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def unless_set(
    stop: asyncio.Event, work: Coroutine[Any, Any, ResultT]
) -> tuple[ResultT | None, BaseException | None]:
    """Return what `work` returns or raises; both are None when `stop` is set first: it is cancelled then."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))  # its processes end with it
    if task.cancelled():
        return None, None
    error = task.exception()
    return (None, error) if error is not None else (task.result(), None)

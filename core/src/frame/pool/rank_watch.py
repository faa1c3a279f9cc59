"""What the router collects from the ranks of a group: their load reports, and whether they keep up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from frame.policy.ranks import StallPolicy
from frame.pool.deaths import GroupEnd
from frame.wire.messages import LoadedHead, LoadFailedHead


class RankReports:
    """The reports of a load: the group is loaded when all ranks are, and has failed when one has.

    Attributes:
        result: rank 0's report, memory of all ranks added up, or the end that the first failure is.
    """

    def __init__(self, ranks: int) -> None:
        """Expect a report of each of `ranks` ranks."""
        self.result: asyncio.Future[LoadedHead | GroupEnd]
        self.result = asyncio.get_running_loop().create_future()
        self._ranks = ranks
        self._loaded: dict[int, LoadedHead] = {}

    def explain_late(self, stage: str, limit: float) -> GroupEnd:
        """Return the end of a group that has not loaded within `limit` seconds.

        Args:
            stage: of rank 0; it says nothing of others.
        """
        if self._ranks > 1:
            missing = (str(rank) for rank in range(self._ranks) if rank not in self._loaded)
            stage = f"load of rank {', '.join(missing)} (of {self._ranks})"
        cause = f"{stage}: not finished within {limit:g} s (option.model_loading_timeout)"
        return GroupEnd(kind="load_failed", cause=cause)

    def take(self, rank: int, report: LoadedHead | LoadFailedHead) -> None:
        """Take a rank's report."""
        if self.result.done():
            return
        if isinstance(report, LoadFailedHead):
            where = report.stage if self._ranks == 1 else f"rank {rank}: {report.stage}"
            end = GroupEnd(kind="load_failed", cause=f"{where}: {report.message}", status=report.status)
            self.result.set_result(end)
            return
        self._loaded[rank] = report
        if len(self._loaded) == self._ranks:
            total = sum(loaded.rss_bytes for loaded in self._loaded.values())
            self.result.set_result(replace(self._loaded[0], rss_bytes=total))


class RankWatch:
    """Asks all ranks in turn, and judges their answers; all methods run on the loop's thread."""

    def __init__(
        self, ranks: int, timeout: float, ask: Callable[[], None], stalled: Callable[[str], None]
    ) -> None:
        """Wrap what asks all ranks, and what is told, once, which of them is stalled and why.

        One rank is never asked: there is no other that it could be behind.
        """
        self._is_needed = ranks > 1
        self._policy = StallPolicy(ranks, timeout)
        self._ask = ask
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.heard = self._policy.heard

    def begin(self) -> None:
        """Ask from now on: the ranks have loaded."""
        if not self._is_needed:
            return
        self._ask()
        self._timer = self._loop.call_later(self._policy.interval, self._tick)

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        why = self._policy.judge()
        if why:
            self._timer = None
            self._stalled(why)
            return
        self._ask()
        self._timer = self._loop.call_later(self._policy.interval, self._tick)

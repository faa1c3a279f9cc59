"""What deciding costs: the policy alone, no worker and no socket, with thousands of requests queued.

Usage: python benchmarks/deciding.py [--rounds 5] [--queued 10000]

Prints microseconds a request: to queue it, to put it in a batch, and to take note that the batch has ended.
The queue keeps its length: as soon as one of four busy workers ends a batch, as many requests come as leave.
Medians over the rounds with the spread; beside it the same with 100 requests queued, and the ratio of the
two, which are measured in turn within each round. It is processor time: deciding waits for nothing. Seeds are
fixed.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median
from time import process_time

from frame.policy.batching import BatchLimits
from frame.policy.dispatch import Dispatcher
from frame.wire.hints import BatchHint
from load import median_spread

BUDGET_US = 20.0
WORKERS = 4
SHORT_QUEUE = 100
REQUESTS = 20_000
SECONDS_A_BATCH = 0.002
"""Made-up time, so that the delay is over for some keys and not for others."""
MAX_DELAY = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of load: hint keys and priorities, drawn for each request, and the budget of a batch."""

    name: str
    keys: int = 1
    priorities: tuple[int, ...] = (3,)
    max_cost: int | None = None
    is_padded: bool = False


CASES = (
    Case("one key"),
    Case("1,000 keys", keys=1000),
    Case("4 priorities", priorities=(0, 3, 5, 9)),
    Case("1,000 keys, 4 priorities", keys=1000, priorities=(0, 3, 5, 9)),
    Case("one key, padded, budget", max_cost=512, is_padded=True),
)


@dataclass(slots=True, eq=False)
class Worker:
    """A worker group as the dispatcher sees it: one slot, busy with `sent` batches."""

    takes_work: bool = True
    slots: int = 1
    capacity: int = 0
    sent: int = 0
    runs_suspect: bool = False


class Queue:
    """A dispatcher with `queued` requests and four workers that are always busy."""

    def __init__(self, case: Case, batch_size: int, queued: int) -> None:
        random = Random(7)
        limits = BatchLimits(
            batch_size=batch_size, max_delay=MAX_DELAY, max_cost=case.max_cost, is_padded=case.is_padded
        )
        self.dispatcher: Dispatcher[Worker, int] = Dispatcher(limits)
        self.workers = [Worker() for _ in range(WORKERS)]
        self.now = 1000.0
        self.next_key = 0
        names = [str(number).encode() for number in range(case.keys)]
        self.hints = [BatchHint(random.choice(names), random.randint(1, 128)) for _ in range(4096)]
        self.priorities = [random.choice(case.priorities) for _ in range(4093)]
        self.add(queued)
        self.send()

    def add(self, count: int) -> None:
        """Queue requests that come now."""
        for _ in range(count):
            key = self.next_key
            self.next_key = key + 1
            hint, priority = self.hints[key % 4096], self.priorities[key % 4093]
            self.dispatcher.add(key, key, self.now, priority=priority, hint=hint)

    def send(self) -> int:
        """Send all that is due, as the pool does after each event; return how many requests that were."""
        count = 0
        while (order := self.dispatcher.next_order(self.now, self.workers)) is not None:
            order.runner.sent += 1
            count += len(order.jobs)
        self.dispatcher.waits_for_jobs(self.workers)
        self.dispatcher.wake_at(self.now, self.workers)
        return count

    def seconds_a_request(self) -> float:
        """Let batches end, and as many requests come as leave."""
        left = ends = 0
        begin = process_time()
        while left < REQUESTS:
            worker = self.workers[ends % WORKERS]
            worker.sent = 0
            ends += 1
            self.now += SECONDS_A_BATCH
            count = self.send()
            self.add(count)
            left += count
        return (process_time() - begin) / left


def measure(case: Case, batch_size: int, queued: int, rounds: int) -> list[tuple[float, float]]:
    """Return pairs (long queue, short queue) of microseconds a request."""
    queues = [Queue(case, batch_size, length) for length in (queued, SHORT_QUEUE)]
    run: Callable[[Queue], float] = Queue.seconds_a_request
    for queue in queues:
        run(queue)
    found = []
    for _ in range(rounds):
        gc.collect()
        long, short = (run(queue) * 1e6 for queue in queues)
        found.append((long, short))
    return found


def main() -> None:
    """Print the table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queued", type=int, default=10_000)
    given = parser.parse_args()
    print(
        f"{'load':26} {'batch_size':>10} {'us/request':>10} {'spread':>11} {'at 100':>7} {'ratio':>6} "
        f"{'spread':>11} {'budget':>7}"
    )
    for case in CASES:
        for batch_size in (1, 8):
            pairs = measure(case, batch_size, given.queued, given.rounds)
            cost, spread = median_spread([long for long, _ in pairs])
            short = median([short for _, short in pairs])
            ratio, ratios = median_spread([long / short for long, short in pairs])
            verdict = "kept" if cost <= BUDGET_US else "MISSED"
            print(
                f"{case.name:26} {batch_size:10} {cost:10.2f} {spread:>11} {short:7.2f} {ratio:6.2f} "
                f"{ratios:>11} {verdict:>7}",
                flush=True,
            )


if __name__ == "__main__":
    main()

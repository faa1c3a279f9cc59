"""The flags of `frame simulate` and `frame profile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from frame.simulate.defaults import USUAL_LOAD, USUAL_OVERHEAD

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
_ABOVE_0 = click.FloatRange(0, min_open=True)
_FROM_0 = click.FloatRange(0)
_COUNT = click.IntRange(1)

_LOAD = (
    click.option("--trace", type=click.Path(), help="CSV: arrived_seconds[,cost[,key[,priority]]]."),
    click.option(
        "--poisson", type=_ABOVE_0, metavar="RATE", help="RATE requests/s, independent of each other."
    ),
    click.option(
        "--burst", metavar="RATE,PEAK,ON,OFF", help="RATE requests/s for OFF s, PEAK for ON s, and again."
    ),
    click.option(
        "--seconds", type=_ABOVE_0, default=60.0, show_default=True, help="Length of a made-up load."
    ),
    click.option("--kill-every", type=_ABOVE_0, metavar="S", help="Kill a worker process every S seconds."),
    click.option(
        "--kill-at", type=_FROM_0, multiple=True, metavar="T", help="Kill one T seconds in; repeatable."
    ),
    click.option("--seed", type=int, default=1, show_default=True, help="Of all that is drawn at random."),
)
_TIMES = (
    click.option(
        "--service",
        required=True,
        metavar="MS[+MS]|FILE",
        help="Milliseconds a batch takes + those of each request; or the .json of frame profile.",
    ),
    click.option(
        "--overhead-ms",
        type=_FROM_0,
        default=USUAL_OVERHEAD * 1000,
        show_default=True,
        help="Milliseconds of a request outside of queue and worker; a profile has its own.",
    ),
    click.option(
        "--load-seconds",
        type=_FROM_0,
        default=USUAL_LOAD,
        show_default=True,
        help="Seconds until a worker is up; a profile has its own.",
    ),
)
_SETTINGS = (
    click.option("--batch-size", type=_COUNT, help="batch_size."),
    click.option("--max-batch-delay-ms", type=click.IntRange(0), help="max_batch_delay."),
    click.option("--workers", type=_COUNT, help="minWorkers and maxWorkers."),
    click.option("--min-workers", type=click.IntRange(0), help="minWorkers."),
    click.option("--max-workers", type=_COUNT, help="maxWorkers."),
    click.option("--max-idle-time", type=click.IntRange(0), help="max_idle_time, seconds."),
    click.option("--job-queue-size", type=_COUNT, help="job_queue_size."),
    click.option("--batching", type=click.Choice(["fixed", "adaptive"]), help="batching."),
    click.option("--latency-target-ms", type=_ABOVE_0, help="latency_target_ms, for adaptive batching."),
    click.option(
        "--shares-model/--no-shares-model",
        default=None,
        help="option.shares_model: workers are threads of up to slots_per_group. Unset: one each process.",
    ),
)
_OUTPUT = (
    click.option(
        "--target-ms",
        type=_ABOVE_0,
        help="Search settings that answer 99 of 100 in this, at least cost.",
    ),
    click.option("--plot", type=click.Path(), metavar="FILE", help="Draw the run: .png, .svg or .pdf."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)
_PROFILE = (
    click.option("--data", metavar="TEXT|@FILE", default="", help="Body of every request."),
    click.option("--content-type", default="application/json", show_default=True, help="Of the body."),
    click.option("--batch-size", type=_COUNT, help="Largest batch; unset: the model's batch_size."),
    click.option("--repeat", type=_COUNT, default=20, show_default=True, help="Batches of each size."),
    click.option("-o", "--output", type=click.Path(), help="Write the profile here, for frame simulate."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option(
        "--reference",
        is_flag=True,
        help="Instead: save what the model says before it is cut or changed, for the self-check at load.",
    ),
)


def simulate_options(function: FunctionT) -> FunctionT:
    """Add the flags of `frame simulate`."""
    return _add(function, (*_LOAD, *_TIMES, *_SETTINGS, *_OUTPUT))


def profile_options(function: FunctionT) -> FunctionT:
    """Add the flags of `frame profile`."""
    return _add(function, _PROFILE)


def _add(function: FunctionT, decorators: tuple[Callable[[FunctionT], FunctionT], ...]) -> FunctionT:
    for decorate in reversed(decorators):
        function = decorate(function)
    return function

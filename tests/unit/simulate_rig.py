"""Settings for simulated models, and runs of them."""

from __future__ import annotations

from typing import Any

from frame.policy.batching import BatchLimits
from frame.policy.lifecycle import RestartLimits
from frame.simulate.outcome import Outcome
from frame.simulate.service import service_line
from frame.simulate.settings import PlaceLimits, Settings
from frame.simulate.simulation import Simulation
from frame.simulate.trace import Arrival, Trace


def settings(
    workers: tuple[int, int] = (1, 1), batch_size: int = 1, max_delay: float = 0.0, **others: Any
) -> Settings:
    """Return settings of a model with between `workers` workers, each a process."""
    values: dict[str, Any] = {
        "batching": BatchLimits(batch_size=batch_size, max_delay=max_delay),
        "restarts": RestartLimits(),
        "places": (PlaceLimits(*workers, 1),),
        "queue_size": 100_000,
        "request_timeout": 1000.0,
        "predict_timeout": 1000.0,
        "max_idle": 60.0,
    }
    return Settings(**(values | others))


def trace(*times: float, kills: tuple[float, ...] = (), seconds: float | None = None) -> Trace:
    """Return a trace of requests at these times."""
    arrivals = tuple(Arrival(at) for at in times)
    return Trace(arrivals=arrivals, seconds=seconds or max((1.0, *times)), kills=kills)


def run(
    given: Settings, load: Trace, service: str = "10", *, overhead: float = 0.0, load_seconds: float = 1.0
) -> Outcome:
    """Simulate a model whose batches take `service` milliseconds."""
    times = service_line(service, overhead=overhead, load_seconds=load_seconds)
    return Simulation(given, times, load).run()


def latencies_ms(outcome: Outcome) -> list[float]:
    """Return the latencies in the order of arrival."""
    return [round(item.latency * 1000, 6) for item in sorted(outcome.answers)]

"""Whether a request may join the queue of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelStatus = Literal["PENDING", "READY", "FAILED"]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request may not join.

    Attributes:
        reason: `closing`: the model is ending; `not ready`: it has not loaded, or has failed; `full`: as many
            requests wait as may.
    """

    reason: Literal["closing", "not ready", "full"]


def why_refused(*, status: ModelStatus, is_closing: bool, waiting: int, queue_size: int) -> Refused | None:
    """Return why one more request may not wait; None when it may.

    Args:
        status: of a model that is started by its first request (`minWorkers=0`, `load_on_demand`), READY.
        waiting: requests that no slot runs yet, those that wait in a worker behind a batch included.
        queue_size: `job_queue_size`.
    """
    if is_closing:
        return Refused("closing")
    if status != "READY":
        return Refused("not ready")
    return Refused("full") if waiting >= queue_size else None

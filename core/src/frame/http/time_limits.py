"""How long a request may take: by its model's settings, and by its client's wish when that is shorter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from frame.errors import BadRequestError

TIMEOUT_HEADER = "x-request-timeout"
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")


class Limits(Protocol):
    """Settings of a model, or of a workflow, in seconds."""

    @property
    def predict_timeout(self) -> float:
        """A batch that runs longer is a hang."""

    @property
    def request_timeout(self) -> float | None:
        """From admission to answer; None: as long as a batch may take."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Seconds from admission to answer, and the setting or header that they come from."""

    seconds: float
    source: str


def asked_seconds(properties: Mapping[str, str]) -> float | None:
    """Return the seconds that a client waits at most; None when it does not say.

    Raises:
        BadRequestError: not a decimal number above 0.
    """
    text = properties.get(TIMEOUT_HEADER)
    if text is None:
        return None
    seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
    if seconds <= 0:
        raise BadRequestError(f"{TIMEOUT_HEADER}: {text[:20]!r} is not a number of seconds above 0")
    return seconds


def time_limit(asked: float | None, config: Limits) -> TimeLimit:
    """Return a request's limit: `request_timeout` or `option.predict_timeout`, or less when asked for."""
    limit = TimeLimit(config.predict_timeout, "option.predict_timeout")
    if config.request_timeout is not None:
        limit = TimeLimit(config.request_timeout, "request_timeout")
    if asked is not None and asked < limit.seconds:
        return TimeLimit(asked, TIMEOUT_HEADER)
    return limit

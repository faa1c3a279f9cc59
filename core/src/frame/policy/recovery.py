"""What becomes of a job whose worker group ended before it was answered."""

from __future__ import annotations

from dataclasses import dataclass

POISONOUS_DEATHS = 2
"""Groups that may die with a job inside: the second one had it alone, so the job is the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A job that was running.

    Attributes:
        deaths: groups that died with it inside, this one included where it is to blame.
        has_streamed: its client has had a part of the answer.
        retries: `option.retry_on_crash` of its model.
        cause: how the group ended, for the client.
    """

    deaths: int
    has_streamed: bool
    retries: bool
    cause: str


def why_not_again(job: Interrupted) -> str | None:
    """Return why a job must not be run again; None when it may (alone, once a group died with it inside)."""
    if job.has_streamed:
        return f"the worker ended in the middle of the stream: {job.cause}"
    if job.deaths and not job.retries:
        return f"the worker ended: {job.cause}; option.retry_on_crash is false"
    if job.deaths >= POISONOUS_DEATHS:
        return f"the worker ended twice with this request inside: {job.cause}"
    return None

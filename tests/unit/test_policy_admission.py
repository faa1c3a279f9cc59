"""Who may join a queue, and which batches are to blame for a group's end."""

from __future__ import annotations

import pytest
from frame.policy.admission import ModelStatus, Refused, why_refused
from frame.policy.blame import is_blamed


def ask(status: ModelStatus = "READY", *, is_closing: bool = False, waiting: int = 0) -> Refused | None:
    return why_refused(status=status, is_closing=is_closing, waiting=waiting, queue_size=10)


def test_a_ready_model_takes_requests_until_its_queue_is_full() -> None:
    assert ask(waiting=9) is None
    assert ask(waiting=10) == Refused("full")


def test_a_model_that_ends_takes_none() -> None:
    assert ask(is_closing=True) == Refused("closing")


@pytest.mark.parametrize("status", ["PENDING", "FAILED"])
def test_a_model_that_is_not_ready_takes_none(status: ModelStatus) -> None:
    assert ask(status) == Refused("not ready")


def test_what_ran_is_blamed_for_a_death() -> None:
    assert is_blamed("died", has_started=True, is_hung=False, any_hung=False)


def test_what_waited_for_its_slot_is_not_blamed() -> None:
    assert not is_blamed("died", has_started=False, is_hung=False, any_hung=False)


def test_an_end_that_was_asked_for_is_nobodys_fault() -> None:
    assert not is_blamed("drained", has_started=True, is_hung=False, any_hung=False)


def test_a_hang_is_the_fault_of_the_batch_that_hung_alone() -> None:
    assert is_blamed("hung", has_started=True, is_hung=True, any_hung=True)
    assert not is_blamed("hung", has_started=True, is_hung=False, any_hung=True)
    assert is_blamed("overdue", has_started=True, is_hung=True, any_hung=True)


def test_ranks_that_stalled_are_the_fault_of_what_ran() -> None:
    assert is_blamed("stalled", has_started=True, is_hung=False, any_hung=False)
    assert not is_blamed("stalled", has_started=False, is_hung=False, any_hung=False)


def test_a_process_that_stood_still_before_it_got_work_is_not_the_works_fault() -> None:
    assert not is_blamed("hung", has_started=True, is_hung=False, any_hung=False)

"""The heartbeat: who is asked, who answers, who is silent, and when that is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from frame.policy.lifecycle import GroupState
from frame.pool.heartbeat import ANSWER_WITHIN, INTERVAL, MOST_UNANSWERED, Heartbeat
from frame.testing import FakeClock

from tests.unit.pool_rig import TimedLoop


class Watched:
    """A heartbeat and the process that it watches."""

    def __init__(self) -> None:
        self.loop = TimedLoop(FakeClock(1000.0))
        self.pings: list[float] = []
        self.silences: list[float] = []
        self.known: list[float] = []
        self.answers_after: float | None = 0.0
        self.heartbeat = self.loop.run_until_complete(self._make())

    async def _make(self) -> Heartbeat:
        return Heartbeat(self._ping, lambda: self.silences.append(self.loop.time()))

    def _ping(self) -> None:
        self.pings.append(self.loop.time())
        if self.answers_after is not None:
            self.loop.call_later(self.answers_after, self.heartbeat.beat)

    def ask(self) -> None:
        self.heartbeat.ask(lambda: self.known.append(self.loop.time()))
        self.loop.settle()


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    made.heartbeat.begin()
    yield made
    made.heartbeat.stop()
    made.loop.close()


def test_a_process_is_asked_each_interval_and_no_more_after_the_stop(watched):
    watched.loop.advance(3 * INTERVAL)
    assert watched.pings == [1000 + INTERVAL, 1000 + 2 * INTERVAL, 1000 + 3 * INTERVAL]
    watched.heartbeat.stop()
    watched.heartbeat.stop()
    watched.loop.advance(10 * INTERVAL)
    assert len(watched.pings) == 3


def test_a_process_that_answers_is_never_silent(watched):
    watched.answers_after = 0.5
    watched.loop.advance(20 * INTERVAL)
    assert watched.silences == []
    assert watched.heartbeat.silence == 0


def test_silence_is_told_after_so_many_pings_and_while_it_lasts(watched):
    watched.loop.advance(INTERVAL + 0.5)
    watched.answers_after = None
    watched.loop.advance((MOST_UNANSWERED + 2) * INTERVAL)
    first = 1000 + 2 * INTERVAL + MOST_UNANSWERED * INTERVAL
    assert watched.silences == [first, first + INTERVAL]
    assert watched.heartbeat.silent_since == 1000 + 2 * INTERVAL
    assert len(watched.pings) == 1 + MOST_UNANSWERED


def test_one_answer_ends_the_silence(watched):
    watched.answers_after = None
    watched.loop.advance((MOST_UNANSWERED + 1) * INTERVAL)
    watched.answers_after = 0.0
    watched.heartbeat.beat()
    assert (watched.heartbeat.silence, watched.heartbeat.silent_since) == (0, None)
    watched.loop.advance(MOST_UNANSWERED * INTERVAL)
    assert len(watched.silences) == 1


def test_a_question_is_settled_by_the_answer(watched):
    watched.answers_after = 0.3
    watched.ask()
    assert watched.heartbeat.is_asking
    watched.loop.advance(5.0)
    assert watched.known == [pytest.approx(1000.3)]
    assert watched.heartbeat.silence == 0
    assert not watched.heartbeat.is_asking


def test_a_question_is_settled_by_silence(watched):
    watched.loop.advance(1.5)
    watched.answers_after = None
    watched.ask()
    watched.loop.advance(ANSWER_WITHIN + 0.02)
    (known,) = watched.known
    assert known == pytest.approx(1001.5 + ANSWER_WITHIN, abs=0.02)
    assert watched.heartbeat.silence == pytest.approx(1.5 + ANSWER_WITHIN, abs=0.05)


def test_a_question_to_a_silent_process_is_settled_at_once(watched):
    watched.answers_after = None
    watched.loop.advance(INTERVAL + ANSWER_WITHIN)
    watched.ask()
    assert watched.known == [1000 + INTERVAL + ANSWER_WITHIN]


def test_a_stopped_heartbeat_tells_nothing_more(watched):
    watched.answers_after = None
    watched.ask()
    watched.heartbeat.stop()
    watched.loop.advance(20 * INTERVAL)
    assert (watched.known, watched.silences) == ([], [])


# --- what a group makes of it ---------------------------------------------------------------------


def test_an_idle_process_that_is_silent_is_replaced(start_pool):
    rig = start_pool()
    rig.groups[0].is_stopped = True
    rig.loop.advance(MOST_UNANSWERED * INTERVAL)
    assert not rig.groups[0].was_killed
    rig.loop.advance(INTERVAL)
    end = rig.groups[0].reap()
    assert (end.kind, end.cause) == ("hung", "no heartbeat for 12 s")
    rig.loop.settle()
    assert rig.pool.metrics.restarts == {"hung": 1}


def test_a_job_given_to_a_process_that_was_silent_already_is_run_again_without_blame(start_pool):
    rig = start_pool()
    rig.groups[0].is_stopped = True
    rig.loop.advance(INTERVAL + 0.5)
    job = rig.submit()
    rig.loop.advance(MOST_UNANSWERED * INTERVAL)
    assert rig.groups[0].reap().kind == "hung"
    rig.loop.advance(1.0)
    rig.load_all()
    assert job.deaths == 0
    assert not job.answer.done()
    rig.answer_all()
    assert rig.answer_of(job).status == 200


def test_a_batch_that_silences_its_process_has_its_own_time(start_pool):
    rig = start_pool()
    rig.submit()
    rig.groups[0].is_stopped = True
    rig.loop.advance(29.0)
    assert not rig.groups[0].was_killed
    rig.loop.advance(1.1)
    end = rig.groups[0].reap()
    assert (end.kind, end.cause) == ("hung", "a batch ran longer than 30 s; no heartbeat for 30 s")


def test_an_answer_is_a_sign_of_life(start_pool):
    rig = start_pool()
    rig.groups[0].is_stopped = True
    for _ in range(10):
        rig.submit()
        rig.loop.advance(1.5 * INTERVAL)
        rig.answer_all()
    assert not rig.groups[0].was_killed


def test_an_overdue_batch_of_a_process_that_answers_is_overdue(start_pool):
    rig = start_pool()
    rig.submit()
    rig.loop.advance(30.1)
    end = rig.groups[0].reap()
    assert (end.kind, end.cause) == ("overdue", "a batch ran longer than 30 s; the process answers")


def test_a_process_stopped_just_before_its_batch_is_overdue_is_hung(start_pool):
    rig = start_pool()
    rig.submit()
    rig.loop.advance(29.5)
    rig.groups[0].is_stopped = True
    rig.loop.advance(0.6)
    assert rig.groups[0].state is GroupState.DRAINING
    assert not rig.groups[0].was_killed, "it is asked first"
    rig.loop.advance(1.1)
    assert rig.groups[0].reap().cause == "a batch ran longer than 30 s; no heartbeat for 3 s"


def test_neighbours_of_an_overdue_batch_get_their_time(start_pool):
    rig = start_pool("option.slots_per_group=2", "minWorkers=2", "option.drain_time=5")
    late = rig.submit()
    rig.loop.advance(27.0)
    neighbour = rig.submit()
    rig.loop.advance(3.1)
    assert not rig.groups[0].was_killed
    batch = next(batch for batch, jobs in rig.groups[0].runs.items() if jobs == [neighbour.id])
    rig.groups[0].answer(batch, {neighbour.id: b"in time"}, is_end=True)
    assert rig.groups[0].reap().kind == "overdue"
    assert rig.answer_of(neighbour).status == 200
    assert rig.answer_of(late).status == 503


def test_a_group_whose_neighbours_take_too_long_ends_all_the_same(start_pool):
    rig = start_pool("option.slots_per_group=2", "minWorkers=2", "option.drain_time=2")
    rig.submit()
    rig.loop.advance(25.0)
    rig.submit()
    rig.loop.advance(6.9)
    assert not rig.groups[0].was_killed
    rig.loop.advance(0.2)
    assert rig.groups[0].was_killed

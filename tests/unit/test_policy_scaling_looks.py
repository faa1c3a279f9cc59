"""Workers above the floor are looked at again, however busy they were at the last look."""

from __future__ import annotations

from frame.policy.scaling import ModelLoad, ScaleTo, ScalingLimits, ScalingPolicy


def test_workers_that_were_all_busy_at_the_last_look_go_once_they_are_idle() -> None:
    policy = ScalingPolicy(ScalingLimits(minimum=1, maximum=4, max_idle=2.0))
    busy = ModelLoad(queued=0, batch_size=1, workers=2, starting=0, busy=2)
    assert policy.decide(busy, 0.0) is None
    look = policy.next_look(0.0)
    assert look is not None
    policy.saw(0, 1.0)  # nobody asks for a decision at the end of a batch
    now = look
    for _ in range(3):
        choice = policy.decide(ModelLoad(queued=0, batch_size=1, workers=2, starting=0, busy=0), now)
        if choice is not None:
            break
        again = policy.next_look(now)
        assert again is not None
        now = again
    assert isinstance(choice, ScaleTo)
    assert choice.workers == 1
    assert now <= 1.0 + 2 * 2.0

"""Explanations: true sentences with their figures, and advice that follows from what was measured."""

from __future__ import annotations

import re

import pytest
from frame.policy.batching import BatchLimits
from frame.policy.explain import explain
from frame.policy.explain_view import Advice, BatchTimes, ExplainView, Sentence, count, span
from frame.policy.records import BatchRecord, ChoiceRecord, DeathRecord, ScaleRecord
from frame.policy.scaling import ScalingLimits
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.explain_views import NOW, batch, view

LINE = BatchTimes(measured={1: 0.0203, 4: 0.0269}, base=0.0181, per_item=0.0022)
ONE_SIZE = BatchTimes(measured={1: 0.0204})


FATE = "it had 3 requests, to run again alone or to be answered 503."
HELD = "each ended two workers, and its content is refused for quarantine_time (300 s)."


def texts(model: ExplainView, about: str) -> list[str]:
    return [sentence.text for sentence in explain(model).sentences if sentence.about == about]


def advice(model: ExplainView) -> dict[str, Advice]:
    """Return the advice by the setting it changes."""
    return {",".join(item.change): item for item in explain(model).advice}


# --- what was done --------------------------------------------------------------------------------


def test_without_a_batch_it_says_that_nothing_was_recorded():
    found = explain(view())
    assert found.sentences[0] == Sentence(
        "batches", "No batch was recorded yet: 0 requests were run.", {"batches": 0}
    )
    assert found.advice == ()


def test_batches_that_could_not_be_larger_name_batch_size_and_who_waited():
    model = view(*[batch(left=6)] * 38, *[batch(left=0)] * 12)
    text = "50 of the last 50 batches left with 1 request because batch_size is 1"
    assert texts(model, "batches")[0] == f"{text}; on average 4.6 requests waited behind each."
    assert explain(model).sentences[0].figures["mean_left"] == pytest.approx(4.56)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"why": "delay over", "size": 2, "batch_size": 8},
            "below batch_size=8, because the oldest had waited",
        ),
        ({"why": "no delay", "max_delay": 0.0, "batch_size": 8}, "as soon as a worker was free"),
        ({"why": "closing", "batch_size": 8}, "because the model is ending"),
        ({"why": "joins", "batch_size": 8}, "joined a running model at once"),
        ({"why": "alone", "batch_size": 8}, "a worker had died with it inside"),
        ({"size": 3, "batch_size": 8}, "those that waited could not join them"),
        ({"why": "new reason", "batch_size": 8}, "left with 1 request on average: new reason"),
    ],
)
def test_each_reason_to_leave_has_its_words(changes, said):
    (text, _) = texts(view(batch(**changes), times=ONE_SIZE), "batches")
    assert said in text
    assert text.startswith("1 of the last 1 batch ")


def test_a_budget_of_elements_is_named_where_it_closed_the_batch():
    model = view(batch(size=3, batch_size=8), limits=BatchLimits(batch_size=8, max_delay=0.1, max_cost=512))
    assert "because max_batch_elements is 512" in texts(model, "batches")[0]


def test_the_most_frequent_reason_comes_first():
    model = view(batch(why="no delay", size=2, batch_size=4, max_delay=0.0), *[batch()] * 3)
    assert [text.split(" ", 1)[0] for text in texts(model, "batches")[:2]] == ["3", "1"]


def test_a_wait_is_told_apart_into_company_and_worker():
    late = batch(why="delay over", waited=0.15, max_delay=0.1, batch_size=8)
    filled = batch(size=8, batch_size=8, left=0, waited=0.05)
    behind = batch(size=8, batch_size=8, left=3, waited=0.4)
    text = texts(view(late, filled, behind), "batches")[-1]
    assert "waited 200 ms on average and 400 ms at most: 50 ms on average for company" in text
    assert "150 ms for a free worker" in text


def test_the_last_choice_of_adaptive_batching_is_told_with_its_reason():
    model = view(batch(), is_adaptive=True)
    model.journal.choices.append(
        ChoiceRecord(at=NOW - 12.0, batch_size=8, max_delay=0.004, reason="p99 was 80 ms")
    )
    text = "12 s ago batching=adaptive chose batch_size=8 and a delay of 4 ms: p99 was 80 ms."
    assert texts(model, "batches")[-1] == text
    assert not {"batch_size", "max_batch_delay"} & set(advice(model))


def test_a_requests_time_is_told_in_queue_worker_model_and_rest():
    done = [batch(size=1, seconds=0.02, compute=0.01), batch(size=3, seconds=0.04, compute=0.03)]
    model = view(*done, batch(seconds=None), requests=1204, request_seconds=0.0342, queue_seconds=0.0121)
    whole, inside = texts(model, "time")
    assert whole == (
        "Since the start 1,204 requests took 34.2 ms on average: 12.1 ms in the queue, delay included, and "
        "22.1 ms in a worker."
    )
    assert "In the last 2 batches that ended, a request was in its worker for 35 ms on average" in inside
    assert "25 ms (71 %) in the model's call and 10 ms for the rest" in inside


def test_a_batch_that_took_no_time_divides_nothing():
    assert "0 ms (0 %)" in texts(view(batch(seconds=0.0, compute=0.0)), "time")[0]


def test_workers_are_counted_with_their_limits():
    limits = ScalingLimits(minimum=1, maximum=4, max_idle=60.0)
    assert texts(view(workers=3, starting=1, scaling=limits), "workers")[0] == (
        "3 workers are up, 1 more starting; minWorkers is 1 and maxWorkers is 4."
    )
    assert texts(view(), "workers") == [
        "1 worker is up; minWorkers is 1 and maxWorkers is 1.",
        "No worker was added or removed because minWorkers and maxWorkers are both 1.",
    ]


def test_scalings_are_told_with_their_reasons():
    model = view()
    for number in range(7):
        model.journal.scalings.append(
            ScaleRecord(at=NOW - 60.0 + number, before=number, target=number + 1, reason="60 requests wait")
        )
    told = texts(model, "workers")[1:]
    assert len(told) == 5
    assert told[-1] == "54 s ago their number was set from 6 to 7: 60 requests wait."


def test_no_scaling_is_explained_by_what_was_busy():
    limits = ScalingLimits(minimum=1, maximum=4, max_idle=60.0)
    text = "No worker was added or removed: 4 requests wait now"
    assert texts(view(scaling=limits), "workers")[1] == f"{text}."
    assert texts(view(batch(), batch(busy=0, left=9), scaling=limits), "workers")[1] == (
        f"{text}, and in the last 2 batches at most 1 were busy at once while at most 9 waited."
    )


def test_deaths_are_told_with_what_became_of_their_requests():
    model = view(ends={"died": 3, "out_of_memory": 1}, held=1, failure="load model: x")
    for jobs in (0, 3):
        model.journal.deaths.append(
            DeathRecord(at=NOW - 40.0, kind="died", cause="killed by SIGKILL", jobs=jobs)
        )
    assert texts(model, "deaths") == [
        "The model is FAILED and takes no requests: load model: x.",
        "4 workers ended without being asked since the start: 3 died, 1 out of memory.",
        "40 s ago a worker ended (died): killed by SIGKILL; it had no request.",
        f"40 s ago a worker ended (died): killed by SIGKILL; {FATE}",
        f"1 request is in quarantine: {HELD}",
    ]
    assert texts(view(held=2), "deaths") == [
        "No worker has ended without being asked since the start.",
        f"2 requests are in quarantine: {HELD}",
    ]


# --- batch_size -----------------------------------------------------------------------------------


def test_a_larger_batch_size_is_advised_with_the_throughput_that_the_line_predicts():
    found = advice(view(*[batch(left=15)] * 40))["batch_size"]
    assert found.change == {"batch_size": "8"}
    assert found.text == (
        "batch_size=8 would raise the throughput from 49.3 requests/s to about 224 requests/s: a batch of 1 "
        "takes 20.3 ms, and the model's times fit 18.1 ms + 2.2 ms per request (measured sizes 1-4); "
        "16 requests were there at once."
    )
    assert found.predicted["requests_per_second"] == pytest.approx(8 / (0.0181 + 8 * 0.0022))
    assert found.predicted["seconds"] == pytest.approx(16 / found.predicted["requests_per_second"])
    assert found.figures["batches"] == 40


@pytest.mark.parametrize(("left", "size"), [(3, "2"), (7, "4"), (15, "8"), (500, "16")])
def test_no_size_is_advised_that_could_not_be_filled_or_is_far_from_what_was_measured(left, size):
    assert advice(view(*[batch(left=left)] * 40))["batch_size"].change == {"batch_size": size}


def test_the_batch_that_runs_before_one_that_was_sent_ahead_was_there_as_well():
    found = advice(view(*[batch(left=14, is_ahead=True)] * 40))["batch_size"]
    assert found.figures["mean_together"] == 16


def test_no_size_is_advised_where_the_time_is_all_per_request():
    steep = BatchTimes(measured={1: 0.0202, 4: 0.0802}, base=0.0002, per_item=0.02)
    model = view(*[batch(left=15)] * 40, times=steep)
    assert "batch_size" not in advice(model)
    assert "batch_size" not in advice(view(*[batch(left=2)] * 40))
    assert texts(model, "batches")[-1].startswith(
        "A batch_size above 1 would not raise the throughput by a tenth: a batch of 1 takes 20.2 ms"
    )


def test_where_one_size_was_measured_a_trial_is_advised_and_no_number_invented():
    found = advice(view(*[batch(left=15)] * 40, times=ONE_SIZE))["batching"]
    assert found.change == {"batching": "adaptive"}
    assert found.predicted == {}
    assert "only batches of 1 were measured (20.4 ms)" in found.text


@pytest.mark.parametrize(
    "model",
    [
        view(*[batch(left=15)] * 40, is_adaptive=True),
        view(*[batch(left=0)] * 40),
        view(*[batch(left=15)] * 10, *[batch(why="no delay", max_delay=0.0)] * 40),
        view(*[batch(left=15)] * 40, times=BatchTimes()),
        view(*[batch(left=15, workers=0)] * 40),
        view(*[batch(left=15)] * 40, limits=BatchLimits(batch_size=2, max_delay=0.1)),
    ],
    ids=["adaptive", "nobody waits", "seldom", "nothing measured", "no worker", "older setting"],
)
def test_no_size_is_advised_where_it_is_no_matter_of_size(model):
    assert not {"batch_size", "batching"} & set(advice(model))


# --- max_batch_delay ------------------------------------------------------------------------------


def late(number: int, every: float = 0.2, size: int = 1) -> list[BatchRecord]:
    """Return batches that waited for company, one every so many seconds."""
    facts = {"why": "delay over", "size": size, "batch_size": 8, "waited": 0.1, "left": 0}
    return [batch(at=NOW - every * (number - index), **facts) for index in range(number)]


EIGHT = BatchLimits(batch_size=8, max_delay=0.1)


def test_a_delay_that_brings_no_company_is_advised_away():
    found = advice(view(*late(30), limits=EIGHT, times=LINE))["max_batch_delay"]
    assert found.change == {"max_batch_delay": "0"}
    assert "from about 120 ms to about 21.4 ms: 30 of the last 30 batches waited for 100 ms" in found.text
    assert found.predicted["seconds"] == pytest.approx(0.0214, rel=0.01)


def test_a_pause_among_the_batches_does_not_make_a_busy_model_look_idle():
    busy = late(30, every=0.025)
    for record in busy[:15]:
        record.at -= 3600.0
    assert "max_batch_delay" not in advice(view(*busy, limits=EIGHT, times=LINE))


@pytest.mark.parametrize(
    ("batches", "changes"),
    [
        (late(30, every=0.025), {}),
        (late(30), {"is_adaptive": True}),
        (late(30), {"times": BatchTimes()}),
        (late(10) + [batch(left=0)] * 20, {}),
        (late(30, size=4), {}),
        (late(9), {}),
    ],
    ids=["busy", "adaptive", "not measured", "seldom", "company came", "few"],
)
def test_a_delay_that_is_of_use_stays(batches, changes):
    facts = {"limits": EIGHT, "times": LINE} | changes
    assert "max_batch_delay" not in advice(view(*batches, **facts))


# --- workers --------------------------------------------------------------------------------------


def test_more_workers_are_advised_where_all_are_busy_and_requests_wait():
    found = advice(view(*[batch(left=15)] * 40, times=ONE_SIZE))["maxWorkers"]
    assert found.change == {"maxWorkers": "2"}
    assert found.predicted == {"requests_per_second": pytest.approx(2 / 0.0204), "workers": 2.0}
    assert "40 of the last 40 batches left with the only worker busy and 15 requests waiting" in found.text


def test_several_busy_workers_are_counted():
    model = view(
        *[batch(left=15, busy=3, workers=3)] * 40,
        workers=3,
        scaling=ScalingLimits(minimum=1, maximum=3, max_idle=60.0),
    )
    found = advice(model)["maxWorkers"]
    assert found.change == {"maxWorkers": "6"}
    assert "left with all 3 workers busy and 15 requests waiting" in found.text


def test_more_workers_are_no_use_to_a_model_without_further_cpu_threads():
    model = view(*[batch(left=15)] * 40, cpu_workers=1)
    assert "maxWorkers" not in advice(model)
    assert texts(model, "workers")[-1].endswith("there are CPU threads for 1 worker (cpu_threads).")


@pytest.mark.parametrize(
    "model",
    [
        view(*[batch(left=15)] * 40, scaling=ScalingLimits(minimum=1, maximum=2, max_idle=60.0)),
        view(*[batch(left=15, busy=1, workers=2)] * 40),
        view(*[batch(left=15)] * 40, times=BatchTimes()),
        view(*[batch(size=8, batch_size=8, left=3)] * 40, limits=EIGHT),
    ],
    ids=["more may start", "one is idle", "nothing measured", "too few to feed them"],
)
def test_no_workers_are_advised_where_they_would_not_help(model):
    assert "maxWorkers" not in advice(model)


def test_a_floor_that_was_never_needed_is_advised_away():
    floor = ScalingLimits(minimum=4, maximum=4, max_idle=60.0)
    calm = [batch(left=0, busy=2, workers=4)] * 50
    found = advice(view(*calm, scaling=floor, workers=4))["minWorkers"]
    assert found.change == {"minWorkers": "2"}
    assert found.predicted == {"workers": 2.0}
    assert "at most 2 workers ran a batch at once and no request waited" in found.text
    for other in (calm[:49], [*calm, batch(left=1, busy=2)], [*calm, batch(left=0, busy=4)]):
        assert "minWorkers" not in advice(view(*other, scaling=floor, workers=4))


# --- what holds of every explanation --------------------------------------------------------------

WHYS = ["full", "delay over", "no delay", "closing", "joins", "alone"]
RECORDS = st.builds(
    BatchRecord,
    at=st.floats(0.0, NOW),
    size=st.integers(1, 64),
    cost=st.integers(1, 10**6),
    why=st.sampled_from(WHYS),
    waited=st.floats(0.0, 100.0),
    left=st.integers(0, 10**4),
    batch_size=st.integers(1, 64),
    max_delay=st.floats(0.0, 1.0),
    busy=st.integers(0, 8),
    workers=st.integers(0, 8),
    seconds=st.none() | st.floats(0.0, 10.0),
    compute=st.floats(0.0, 10.0),
)
TIMES = st.builds(
    BatchTimes,
    measured=st.dictionaries(st.integers(1, 64), st.floats(0.0, 10.0), max_size=5),
    base=st.floats(0.0, 1.0),
    per_item=st.none() | st.floats(0.0, 1.0),
)


@given(
    st.lists(RECORDS, max_size=60).map(lambda records: sorted(records, key=lambda record: record.at)),
    TIMES,
    st.integers(0, 4),
    st.integers(0, 4),
    st.none() | st.integers(1, 8),
)
def test_whatever_was_recorded_each_sentence_has_figures_and_is_whole(
    records, times, minimum, more, cpu_workers
):
    found = explain(
        view(
            *records,
            times=times if times.measured else BatchTimes(),
            scaling=ScalingLimits(minimum=minimum, maximum=max(1, minimum + more), max_idle=60.0),
            cpu_workers=cpu_workers,
            limits=BatchLimits(batch_size=records[-1].batch_size if records else 1, max_delay=0.1),
        )
    )
    for item in (*found.sentences, *found.advice):
        assert item.figures
        assert re.search(r"\d|No worker", item.text)
        assert item.text.endswith(".")
        assert not re.search(r"nan|inf\b|None|\{", item.text)
    for item in found.advice:
        assert all(value >= 0 for value in item.predicted.values())
        assert item.change


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.00021, "0.21 ms"),
        (0.0204, "20.4 ms"),
        (0.02, "20 ms"),
        (0.24, "240 ms"),
        (90.0, "90 s"),
    ],
)
def test_times_are_written_with_a_unit_that_fits(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 request"), (2, "2 requests"), (0, "0 requests"), (1204, "1,204 requests")]
)
def test_things_are_counted_in_english(number, text):
    assert count(number, "request") == text

"""A slot: every job of a batch gets its own answer, in order, whatever the model does."""

from __future__ import annotations

import logging
import threading

import pytest
from frame.api import Part, RequestError, Response
from frame.wire.parts import MEMFD_BYTES

from tests.unit.worker_rig import DEADLINE, Scripted, answers, echo, rig, wait_until


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def raising(error):
    """Return a model whose calls raise."""

    def answer(batch):
        raise error

    return Scripted(answer)


def each(answer):
    """Return a model that answers each request by itself."""
    return Scripted(lambda batch: [answer(request) for request in batch])


def statuses(messages):
    return [(job, status) for job, status, _, _ in answers(messages)]


def test_every_job_gets_its_own_answer_in_the_order_of_the_batch():
    with rig(each(echo)) as worker:
        messages = worker.batch_end(worker.run({7: b"seven", 3: b"", 5: b"five"}))
    assert answers(messages) == [(7, 200, "OK", b"seven"), (3, 200, "OK", b""), (5, 200, "OK", b"five")]
    assert [job["properties"]["for"] for job in messages[0].head["jobs"]] == [
        "request-7",
        "request-3",
        "request-5",
    ]


def test_large_parts_travel_as_descriptors_both_ways_beside_small_ones():
    large = bytes(range(256)) * (MEMFD_BYTES // 256)
    bodies = {1: b"small", 2: large, 3: large[::-1] + b"!", 4: b"", 5: large[:-1]}
    with rig(each(echo)) as worker:
        messages = worker.batch_end(worker.run(bodies))
    assert [(job, body) for job, _, _, body in answers(messages)] == list(bodies.items())
    assert [job["parts"][0][2] for job in messages[0].head["jobs"]] == [-1, 0, 1, -1, -1]


def test_a_request_has_its_parts_and_properties_as_they_were_sent():
    seen = []

    def answer(request):
        seen.append((request.properties["Tenant"], [(part.key, bytes(part.data)) for part in request.parts]))
        return Response()

    with rig(each(answer)) as worker:
        worker.batch_end(worker.run({1: [Part("q", b"1"), Part("data", b"body")]}, tenant="a"))
    assert seen == [("a", [("q", b"1"), ("data", b"body")])]


def test_a_returned_error_fails_its_request_alone():
    refusal = RequestError(400, "x: expected a number", properties={"x-why": "no"})
    with rig(each(lambda r: refusal if r.data == b"bad" else echo(r))) as worker:
        messages = worker.batch_end(worker.run({1: b"a", 2: b"bad", 3: b"c"}))
    assert statuses(messages) == [(1, 200), (2, 400), (3, 200)]
    failed = messages[0].head["jobs"][1]
    assert (failed["message"], failed["type_name"], failed["properties"]) == (
        "x: expected a number",
        "BadRequestError",
        {"x-why": "no"},
    )


def test_an_error_with_a_body_of_its_own_keeps_it():
    with rig(each(lambda r: RequestError(422, "no", body=b'{"own": 1}'))) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
    assert answers(messages) == [(1, 422, "no", b'{"own": 1}')]
    assert messages[0].head["jobs"][0]["type_name"] == ""


@pytest.mark.parametrize(
    ("error", "status", "type_name", "text"),
    [
        (ValueError("bad shape"), 424, "HandlerError", "ValueError: bad shape"),
        (MemoryError("no room"), 507, "OutOfMemoryError", "no room"),
        (MemoryError(), 507, "OutOfMemoryError", "out of memory"),
        (OutOfMemoryError("tried 2 GiB"), 507, "OutOfMemoryError", "tried 2 GiB"),
        (RuntimeError("CUDA error: out of memory"), 507, "OutOfMemoryError", "CUDA error: out of memory"),
        (RequestError(413, "too many rows"), 413, "BadRequestError", "too many rows"),
    ],
)
def test_what_a_model_raises_is_the_answer_of_its_batch_and_the_slot_goes_on(error, status, type_name, text):
    with rig(raising(error)) as worker:
        for _ in range(2):
            messages = worker.batch_end(worker.run({1: b"", 2: b""}))
            heads = messages[0].head["jobs"]
            assert [(head["status"], head["type_name"]) for head in heads] == [(status, type_name)] * 2
            assert {head["message"] for head in heads} == {text}
    assert worker.errors == []


def test_in_a_group_of_several_ranks_an_exception_ends_the_slot():
    with rig(raising(ValueError("rank 0 differs")), ends_on_error=True) as worker:
        worker.run({1: b""})
        worker.wait_drained()
    assert [str(error) for error in worker.errors] == ["rank 0 differs"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_answers_fails_the_batch(count):
    with rig(Scripted(lambda batch: [Response()] * count)) as worker:
        messages = worker.batch_end(worker.run({1: b"", 2: b""}))
    text = f"the model gave {count} answers to 2 requests"
    assert answers(messages) == [(1, 424, text, b""), (2, 424, text, b"")]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "text",
        Response(status=99),
        Response(status="200"),
        Response(parts=(Part("data", "text"),)),
        Response(properties=5),
    ],
)
def test_an_answer_that_cannot_be_sent_fails_its_request_alone(wrong):
    with rig(each(lambda r: wrong if r.data == b"bad" else echo(r))) as worker:
        messages = worker.batch_end(worker.run({1: b"bad", 2: b"good"}))
    assert statuses(messages) == [(1, 424), (2, 200)]


def test_what_is_no_list_of_answers_fails_the_batch():
    with rig(Scripted(lambda batch: None)) as worker:
        assert statuses(worker.batch_end(worker.run({1: b"", 2: b""}))) == [(1, 424), (2, 424)]


def test_wide_and_scattered_views_are_sent_as_their_bytes():
    wide = memoryview(bytearray(range(16))).cast("I")
    scattered = memoryview(bytes(range(16)))[::2]
    with rig(Scripted(lambda batch: [Response(parts=(Part("d", v),)) for v in (wide, scattered)])) as worker:
        messages = worker.batch_end(worker.run({1: b"", 2: b""}))
    assert [body for *_, body in answers(messages)] == [bytes(range(16)), bytes(range(0, 16, 2))]


def test_properties_that_are_no_text_are_sent_as_text():
    with rig(each(lambda r: Response(properties={"rows": 3, "odd": "\udcff"}))) as worker:
        messages = worker.batch_end(worker.run({1: b""}))
    assert messages[0].head["jobs"][0]["properties"] == {"rows": "3", "odd": "?"}


def test_the_body_is_the_part_data_else_the_first():
    def answer(request):
        keys = ("meta", "data") if request.data == b"both" else ("first", "second")
        return Response(parts=tuple(Part(key, key.encode()) for key in keys))

    with rig(each(answer)) as worker:
        messages = worker.batch_end(worker.run({1: b"both", 2: b"none"}))
    assert [body for *_, body in answers(messages)] == [b"data", b"first"]


def test_a_malformed_form_is_refused_alone_and_never_reaches_the_model():
    model = each(echo)
    with rig(model) as worker:
        kind = "multipart/form-data; boundary=x"
        good = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nhi\r\n--x--\r\n'
        messages = worker.batch_end(worker.run({1: b"no form", 2: good}, **{"content-type": kind}))
    assert statuses(messages) == [(1, 400), (2, 200)]
    assert model.batches == [["request-2"]]


def test_many_answers_come_in_several_messages_and_the_end_with_the_last():
    bodies = {job: b"%d" % job for job in range(1, 451)}
    with rig(each(echo)) as worker:
        messages = worker.batch_end(worker.run(bodies))
    assert [len(message.head["jobs"]) for message in messages] == [200, 200, 50]
    assert [message.head["end"] is not None for message in messages] == [False, False, True]
    assert [(job, body) for job, _, _, body in answers(messages)] == list(bodies.items())


def test_a_cancelled_job_is_passed_over_and_its_batch_still_ends():
    model = each(echo)
    entered, go_on = threading.Event(), threading.Event()

    def answer(batch):
        entered.set()
        assert go_on.wait(DEADLINE)
        return [echo(request) for request in batch]

    model._answer = answer
    with rig(model) as worker:
        first = worker.run({1: b""})
        assert entered.wait(DEADLINE)
        second = worker.run({2: b"", 3: b""})
        third = worker.run({4: b""})
        worker.cancel(2, 4)
        wait_until(lambda: worker.jobs.is_cancelled(4))
        go_on.set()
        assert statuses(worker.batch_end(first)) == [(1, 200)]
        assert statuses(worker.batch_end(second)) == [(3, 200)]
        assert statuses(worker.batch_end(third)) == []
    assert model.batches == [["request-1"], ["request-3"]]


def test_a_model_sees_during_its_call_that_nobody_waits_any_more():
    entered = threading.Event()

    def answer(request):
        entered.set()
        wait_until(request.is_cancelled)
        return Response(message="gave up")

    with rig(each(answer)) as worker:
        batch = worker.run({1: b""})
        assert entered.wait(DEADLINE)
        worker.cancel(1)
        assert answers(worker.batch_end(batch)) == [(1, 200, "gave up", b"")]


def test_slots_run_batches_at_the_same_time():
    meeting = threading.Barrier(2)

    def answer(request):
        meeting.wait(DEADLINE)
        return echo(request)

    with rig(each(answer), slots=2) as worker:
        batches = {worker.run({1: b""}), worker.run({2: b""})}
        messages = [worker.next(), worker.next()]
    assert {message.head["batch"] for message in messages} == batches
    assert sorted(statuses(messages)) == [(1, 200), (2, 200)]


def test_the_end_says_where_the_seconds_went():
    with rig(each(echo)) as worker:
        end = worker.batch_end(worker.run({1: b""}))[-1].head["end"]
    assert end["calls"] == 1
    assert min(end["decode"], end["compute"], end["encode"]) >= 0


def test_after_a_drain_queued_batches_are_run_and_then_the_slot_ends(caplog):
    caplog.set_level(logging.ERROR)
    with rig(each(echo)) as worker:
        batches = [worker.run({job: b"x"}) for job in (1, 2, 3)]
        worker.drain()
        worker.wait_drained()
        for job, batch in enumerate(batches, start=1):
            assert statuses(worker.batch_end(batch)) == [(job, 200)]
    assert not caplog.records

"""The data plane's parts: what a request line means, how a body is read, which headers may leave."""

from __future__ import annotations

import asyncio
import os
import time

import h11
import pytest
from frame.api import Properties
from frame.errors import BadRequestError, CapacityError, FrameError, PayloadTooLargeError
from frame.http.dataplane import _headers_of, _priority
from frame.http.djl import MAX_QUERY_FIELDS, DjlAdapter
from frame.http.intake import ClientGoneError, Intake, SlowBodyError
from frame.pool.budget import ByteBudget
from frame.wire.parts import MEMFD_BYTES
from hypothesis import given
from hypothesis import strategies as st

ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"

# --- DJL Serving's requests -----------------------------------------------------------------------


def invocation(query=b"", *headers, allows=False, **parameters):
    adapter = DjlAdapter(allows_handler_override=allows)
    return adapter.invocation(parameters, query, headers, "the-id")


def test_query_parameters_are_parts_in_their_order_and_not_properties():
    found = invocation(b"b=2&a=%C3%A9&b=&c", model="m")
    assert found.parts == [("b", b"2"), ("a", "é".encode()), ("b", b""), ("c", b"")]
    assert found.properties == {"requestId": "the-id"}


def test_headers_are_properties_and_the_last_duplicate_wins():
    found = invocation(b"", (b"x-a", b"1"), (b"x-b", b"\xe9"), (b"x-a", b"2"), model="m")
    assert found.properties == {"x-a": "2", "x-b": "é", "requestId": "the-id"}


def test_the_path_names_model_and_version_whatever_else_does():
    found = invocation(b"model_name=q&model_version=1", (b"model_name", b"h"), model="m", version="2")
    assert (found.model, found.version, found.model_field) == ("m", "2", None)


@pytest.mark.parametrize(
    ("query", "header", "model"),
    [(b"model_name=q", b"h", "q"), (b"", b"h", "h"), (b"model_name=", b"h", "h")],
)
def test_without_a_path_the_query_names_the_model_and_then_a_header(query, header, model):
    assert invocation(query, (b"model_name", header)).model == model


def test_a_model_that_nothing_names_may_be_named_by_the_body():
    found = invocation()
    assert (found.model, found.version, found.model_field) == (None, None, "model_name")


def test_sagemakers_custom_attributes_are_properties():
    found = invocation(b"", (ATTRIBUTES, b"tenant=a; stage = x=y ;;flag;=z"), model="m")
    assert found.properties == {"tenant": "a", "stage": "x=y", "requestId": "the-id"}


@pytest.mark.parametrize(
    "header",
    [
        (b"handler", b"evil"),
        (ATTRIBUTES, b"a=1;handler=evil"),
        (ATTRIBUTES, b"Handler=evil"),
        (ATTRIBUTES, b" HANDLER ="),
    ],
)
def test_a_client_may_not_choose_the_handler_in_any_spelling(header):
    with pytest.raises(BadRequestError, match="handler: a client may not choose it"):
        invocation(b"", header, model="m")
    assert "handler" in Properties(invocation(b"", header, model="m", allows=True).properties)


def test_a_client_cannot_give_its_request_another_id():
    forged = b"requestid=1;requestId=2;REQUESTID=3"
    found = invocation(b"", (b"requestid", b"0"), (ATTRIBUTES, forged), model="m")
    assert Properties(found.properties)["requestId"] == "the-id"


@pytest.mark.parametrize("query", [b"a=%FF", b"a=\xe9", b"&".join([b"a=1"] * (MAX_QUERY_FIELDS + 1))])
def test_a_query_that_cannot_be_read_is_refused(query):
    with pytest.raises(BadRequestError, match="query"):
        invocation(query, model="m")


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_query_and_attributes_are_read_or_refused(query, attributes):
    try:
        found = invocation(query, (ATTRIBUTES, attributes), model="m")
    except BadRequestError:
        return
    assert Properties(found.properties)["requestId"] == "the-id"


@pytest.mark.parametrize(("text", "priority"), [(None, 3), ("0", 0), ("-7", -7), ("99999999", 1000)])
def test_a_priority_is_a_bounded_number(text, priority):
    assert _priority({} if text is None else {"x-priority": text}) == priority


@pytest.mark.parametrize("text", ["", "high", "1.5"])
def test_a_priority_that_is_no_number_is_refused(text):
    with pytest.raises(BadRequestError, match="x-priority"):
        _priority({"x-priority": text})


# --- headers of answers ---------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4))
def test_whatever_a_model_names_as_headers_http_can_carry(properties):
    headers = _headers_of(properties)
    h11.Response(status_code=200, headers=headers)
    assert len(headers) <= len(properties)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "Upgrade", "date"])
def test_headers_of_the_http_server_are_not_a_models(name):
    assert _headers_of({name: "5", "x-own": "kept"}) == [(b"x-own", b"kept")]


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x=1", "a\nb", "a\0b", "a\x0bb"])
def test_a_value_that_would_forge_a_header_is_dropped(value):
    assert _headers_of({"x-own": value}) == []


@pytest.mark.parametrize("name", ["", "a b", "a:b", "näme", "a\r\nb"])
def test_a_name_that_is_none_is_dropped(name):
    assert _headers_of({name: "x"}) == []


def test_values_are_latin_1_with_a_mark_for_what_is_not():
    assert _headers_of({"X-Own": " é€ "}) == [(b"x-own", b"\xe9?")]


# --- bodies ---------------------------------------------------------------------------------------


class Client:
    """Sends a body piece by piece, when told to or at once."""

    def __init__(self, *pieces: bytes | None) -> None:
        self._pieces = list(pieces)
        self.has_asked_for_more = asyncio.Event()

    async def receive(self):
        """Give the next piece; None is a client that went away; after the last piece nothing comes."""
        if not self._pieces:
            self.has_asked_for_more.set()
            await asyncio.get_running_loop().create_future()
        piece = self._pieces.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": piece != b"" or bool(self._pieces)}


def read(*pieces, limit=100, budget=None, announced=None):
    """Read a body that ends with an empty piece; return its bytes after giving all back."""
    budget = budget or ByteBudget(1000)
    before = budget.used

    async def scenario():
        intake = Intake(max_bytes=limit, budget=budget, read_timeout=5.0)
        properties = {} if announced is None else {"content-length": str(announced)}
        payload = await intake.read(properties, Client(*pieces).receive)
        assert budget.used == before + payload.size_bytes
        body = b"".join(payload.read_segments())
        intake.release(payload, payload.size_bytes)
        return body

    try:
        return asyncio.run(asyncio.wait_for(scenario(), 10))
    finally:
        assert budget.used == before, "bytes were not given back"


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=6), st.booleans())
def test_a_body_within_the_limits_is_read_whole(pieces, is_announced):
    whole = b"".join(pieces)
    assert read(*pieces, b"", announced=len(whole) if is_announced else None) == whole


@pytest.mark.parametrize("announced", [3, 50])
def test_a_body_of_another_length_than_announced_costs_what_it_is(announced):
    assert read(b"four", b"", announced=announced) == b"four"


@pytest.mark.parametrize("text", ["-1", "1e3", "٣", "", "9" * 19])
def test_a_length_that_is_no_number_is_refused(text):
    with pytest.raises(BadRequestError, match="content-length"):
        read(b"", announced=text)


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_read():
    with pytest.raises(
        PayloadTooLargeError, match=r"body of 101 bytes is over max_request_size \(100 bytes\)"
    ):
        read(announced=101)


def test_a_body_that_grows_too_large_is_refused():
    assert read(b"x" * 100, b"") == b"x" * 100
    with pytest.raises(PayloadTooLargeError):
        read(b"x" * 60, b"x" * 41, b"")


def test_when_too_many_bytes_wait_a_body_is_refused_with_a_time_to_try_again():
    budget = ByteBudget(50)
    for pieces, announced in (((b"x" * 40, b"x" * 11, b""), None), ((), 51)):
        with pytest.raises(CapacityError) as caught:
            read(*pieces, budget=budget, announced=announced)
        assert caught.value.retry_after >= 1
    assert read(b"x" * 50, b"", budget=budget) == b"x" * 50


@pytest.mark.parametrize("before", [0, 1])
def test_a_client_that_goes_away_gives_everything_back(before):
    with pytest.raises(ClientGoneError):
        read(*[b"x" * 10] * before, None, announced=30)


def test_a_failed_read_of_a_large_body_leaves_no_descriptor():
    descriptors = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is needed
    with pytest.raises(ClientGoneError):
        read(b"x" * MEMFD_BYTES, None, limit=2 * MEMFD_BYTES, budget=ByteBudget(4 * MEMFD_BYTES))
    assert sorted(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_a_body_that_is_too_slow_is_ended_and_gives_everything_back():
    async def scenario():
        budget = ByteBudget(100)
        intake = Intake(max_bytes=100, budget=budget, read_timeout=5.0)
        slow, done = Client(b"x" * 10), Client(b"quick", b"")
        reading = asyncio.create_task(intake.read({"content-length": "30"}, slow.receive))
        payload = await intake.read({}, done.receive)
        await asyncio.wait_for(slow.has_asked_for_more.wait(), 5)
        intake.sweep(time.monotonic() + 1.0)
        await asyncio.sleep(0)
        assert not reading.done()
        intake.sweep(time.monotonic() + 6.0)
        with pytest.raises(SlowBodyError, match="body not complete within 5 s"):
            await asyncio.wait_for(reading, 5)
        assert reading.cancelling() == 0
        assert budget.used == payload.size_bytes
        intake.release(payload, payload.size_bytes)
        intake.sweep(time.monotonic() + 60.0)
        assert budget.used == 0

    asyncio.run(scenario())


def test_a_cancelled_read_stays_a_cancellation_and_gives_everything_back():
    async def scenario():
        budget = ByteBudget(100)
        intake = Intake(max_bytes=100, budget=budget, read_timeout=5.0)
        client = Client(b"x" * 10)
        reading = asyncio.create_task(intake.read({}, client.receive))
        await asyncio.wait_for(client.has_asked_for_more.wait(), 5)
        assert budget.used == 10
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert budget.used == 0

    asyncio.run(scenario())


@given(
    st.lists(st.none() | st.binary(max_size=60), max_size=4),
    st.none() | st.integers(0, 150),
    st.integers(0, 120),
)
def test_however_a_read_ends_the_budget_is_whole_again(pieces, announced, room):
    status = 200
    try:
        read(*pieces, b"", announced=announced, budget=ByteBudget(room))
    except FrameError as error:
        status = error.status
    assert status in {200, 413, 499, 503}

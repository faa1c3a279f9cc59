"""The time that a request's client and its model's settings allow, and what it is called."""

from __future__ import annotations

import pytest
from frame.errors import BadRequestError
from frame.http.time_limits import TIMEOUT_HEADER, asked_seconds, time_limit
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_plans import model_config

OWN = "option.predict_timeout=30"
BOTH = "option.predict_timeout=30\nrequest_timeout=90"


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("1", 1.0), ("0.25", 0.25), (".5", 0.5), ("3.", 3.0)]
)
def test_a_client_says_in_decimal_seconds_how_long_it_waits(text, seconds):
    assert asked_seconds({} if text is None else {TIMEOUT_HEADER: text}) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.000", "-1", "1e3", "nan", "inf", "1_0", "٣", "1 s", "9" * 400])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(BadRequestError, match=r"x-request-timeout: '.*' is not a number of seconds above 0"):
        asked_seconds({TIMEOUT_HEADER: text})


@given(st.text(max_size=12))
def test_any_text_is_a_time_above_zero_or_refused(text):
    try:
        seconds = asked_seconds({TIMEOUT_HEADER: text})
    except BadRequestError:
        return
    assert seconds is not None
    assert 0 < seconds < 1e10


@pytest.mark.parametrize(
    ("lines", "asked", "seconds", "source"),
    [
        (OWN, None, 30.0, "option.predict_timeout"),
        (BOTH, None, 90.0, "request_timeout"),
        (BOTH, 0.5, 0.5, "x-request-timeout"),
        (OWN, 31.0, 30.0, "option.predict_timeout"),
        (BOTH, 1e9, 90.0, "request_timeout"),
    ],
)
def test_a_client_can_shorten_the_time_and_never_lengthen_it(lines, asked, seconds, source):
    limit = time_limit(asked, model_config(lines))
    assert (limit.seconds, limit.source) == (seconds, source)

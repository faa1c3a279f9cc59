"""Seeds: the client's when it sent one, else one of the job's own."""

from __future__ import annotations

import pytest
from frame.api import RequestError
from frame.worker.seeds import requested_seed, seed_for
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**63 - 1))
def test_jobs_of_a_batch_have_seeds_of_their_own_within_63_bits(base):
    seeds = [seed_for(base, position) for position in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [seed_for(base, position) for position in range(100)]


@pytest.mark.parametrize(("text", "seed"), [("0", 0), (" 42 ", 42), (str(2**63 - 1), 2**63 - 1), ("007", 7)])
def test_a_client_may_ask_for_a_seed(text, seed):
    assert requested_seed({"x-frame-seed": text}) == seed


def test_a_client_that_asks_for_none_gets_another():
    assert requested_seed({}) is None


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0x7", "seven", "1_000", "²", str(2**63), "9" * 5000])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(RequestError, match="x-frame-seed: expected a whole number") as caught:
        requested_seed({"x-frame-seed": text})
    assert caught.value.status == 400

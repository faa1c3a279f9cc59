"""Records between ranks: any split of the stream gives the same ones; what is none is refused."""

from __future__ import annotations

import pytest
from frame.wire.frames import WireError
from frame.wire.records import ENDED, RECORD, UNKNOWN, Act, Record, RecordDecoder, outcome_of, pack
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 2**64 - 1)
RECORDS = st.builds(Record, act=st.sampled_from(Act), number=NUMBERS, seed=NUMBERS, digest=NUMBERS)


@given(st.lists(RECORDS, max_size=20), st.data())
def test_records_do_not_depend_on_how_the_stream_was_split(records, data):
    stream = b"".join(pack(record) for record in records)
    decoder, found = RecordDecoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == records


def test_a_record_has_25_bytes():
    assert len(pack(Record(act=Act.STOP))) == RECORD.size == 25


@pytest.mark.parametrize("act", [0, 10, 255])
def test_an_unknown_act_is_refused(act):
    with pytest.raises(WireError, match=f"unknown record {act}"):
        RecordDecoder().feed(RECORD.pack(act, 0, 0, 0))


def test_an_outcome_tells_which_jobs_failed():
    batches = [[job for job in range(10) if chosen >> job & 1] for chosen in range(1 << 10)]
    outcomes = {outcome_of(failed) for failed in batches}
    assert len(outcomes) == len(batches)
    assert outcome_of([]) == 0
    assert not outcomes & {ENDED, UNKNOWN}

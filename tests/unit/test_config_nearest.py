"""Suggestions for misspelt keys."""

import pytest
from frame.config.nearest import edit_distance, near_key, suggest_key


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("same", "same", 0),
    ],
)
def test_edit_distance_counts_single_changes(a, b, distance):
    assert edit_distance(a, b) == distance


def test_near_key_is_within_two_changes():
    known = ["batch_size", "max_batch_delay"]
    assert near_key("batchsize", known) == "batch_size"
    assert near_key("bath_sizes", known) == "batch_size"
    assert near_key("bth_sizzes", known) is None


def test_short_words_are_near_at_one_change_only():
    assert near_key("option.emv", ["option.env"]) == "option.env"
    assert near_key("option.end_", ["option.env"]) is None


def test_missing_or_superfluous_prefix_is_near():
    assert near_key("option.batch_size", ["batch_size"]) == "batch_size"
    assert near_key("predict_timeout", ["option.predict_timeout"]) == "option.predict_timeout"


def test_suggestion_reaches_further_than_two_changes():
    assert (
        suggest_key("option.intra_op_threads", ["option.intra_op_num_threads", "engine"])
        == "option.intra_op_num_threads"
    )
    assert suggest_key("batchsize", ["batch_size"]) == "batch_size"
    assert suggest_key("zzz", ["batch_size"]) is None
    assert suggest_key("x", []) is None

"""Properties files and option values survive writing and reading."""

from __future__ import annotations

from dataclasses import dataclass

import javaproperties
from frame.api import option
from frame.config.nearest import edit_distance
from frame.config.properties import parse_properties
from frame.contract.options import parse_options
from frame.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENTRIES = st.lists(st.tuples(TEXT, TEXT), max_size=10)


@given(ENTRIES)
def test_what_is_written_is_read_back(entries):
    text = javaproperties.dumps(entries, timestamp=False)
    assert {item.key: item.value for item in parse_properties(text, "f")} == dict(entries)


@given(ENTRIES)
def test_lines_count_up_and_stand_at_their_keys(entries):
    text = "".join(
        f"# {number}\n{javaproperties.join_key_value(*entry)}\n" for number, entry in enumerate(entries)
    )
    last = {key: 2 * number + 2 for number, (key, _) in enumerate(entries)}
    assert {item.key: item.line for item in parse_properties(text, "f")} == last


def parse_or_refusal(text):
    try:
        return parse_properties(text, "f")
    except ConfigError as error:
        return str(error)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_file_and_line(text):
    found = parse_or_refusal(text)
    if isinstance(found, str):
        assert found.startswith("f:")
    else:
        assert len({item.key for item in found}) == len(found)
        assert all(1 <= item.line <= len(text) + 1 for item in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    text: str = option("", "Text.")
    number: int | None = option(None, "Number.")
    share: float = option(0.0, "Share.")
    flag: bool = option(False, "Flag.")


@given(
    st.builds(
        Options,
        text=TEXT.map(str.strip),
        number=st.none() | st.integers(-(2**62), 2**62),
        share=st.floats(allow_nan=False, allow_infinity=False),
        flag=st.booleans(),
    )
)
def test_options_survive_as_strings(options):
    number = "" if options.number is None else str(options.number)
    values = {"text": options.text, "number": number, "share": repr(options.share), "flag": str(options.flag)}
    assert parse_options(Options, values) == options


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)

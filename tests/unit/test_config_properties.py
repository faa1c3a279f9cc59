"""Java properties text: lines, duplicates, escapes."""

import pytest
from frame.config.properties import Property, parse_properties
from frame.errors import ConfigError


def test_keys_have_the_line_on_which_they_start():
    text = "# a comment\nengine=Python\n\nbatch_size : 4\\\n  2\r\nmaxWorkers 3"
    assert parse_properties(text, "f") == [
        Property(key="engine", value="Python", line=2),
        Property(key="batch_size", value="42", line=4),
        Property(key="maxWorkers", value="3", line=6),
    ]


def test_last_duplicate_wins_and_has_its_own_line():
    assert parse_properties("a=1\nb=2\na=3\n", "f") == [
        Property(key="b", value="2", line=2),
        Property(key="a", value="3", line=3),
    ]


def test_unicode_escapes_are_decoded():
    assert parse_properties(r"option.greeting=caf\u00e9", "f")[0].value == "café"


def test_malformed_escape_names_file_and_line():
    with pytest.raises(ConfigError, match=r"serving.properties:2: .*four hex digits"):
        parse_properties("a=1\nb=\\u12", "serving.properties")

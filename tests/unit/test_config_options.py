"""Options of engines: strings to typed values, with the valid ones named when they are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from frame.api import NoOptions, option
from frame.contract.options import OptionError, check_options, option_keys, parse_options, parse_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    threads: int | None = option(None, "Threads.", aliases=("intraOpNumThreads",), minimum=1)
    level: str = option("all", "Optimisation.", choices=("none", "all"))
    rate: float = option(0.5, "A share.")
    fast: bool = option(False, "Speed.")


@dataclass(frozen=True, slots=True)
class WrongOptions:
    sizes: list[int] | None = option(None, "Not a type of an option.")  # noqa: RUF009


def test_values_are_typed_by_their_fields():
    values = {"threads": " 4 ", "level": "none", "rate": "1e-3", "fast": "TRUE"}
    assert parse_options(Options, values) == Options(threads=4, level="none", rate=0.001, fast=True)


def test_missing_options_keep_their_defaults():
    assert parse_options(Options, {}) == Options()
    assert parse_options(NoOptions, {}) == NoOptions()


def test_aliases_are_accepted_and_the_own_name_wins():
    assert parse_options(Options, {"intraOpNumThreads": "2"}) == Options(threads=2)
    assert parse_options(Options, {"threads": "3", "intraOpNumThreads": "2"}) == Options(threads=3)
    assert parse_options(Options, {"intraOpNumThreads": "2", "threads": "3"}) == Options(threads=3)


def test_empty_value_of_an_optional_option_is_none():
    assert parse_options(Options, {"threads": ""}) == Options(threads=None)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("threads", "0", "'0' is not a whole number >= 1"),
        ("threads", "1.5", "'1.5' is not a whole number >= 1"),
        ("threads", "1_0", "'1_0' is not a whole number >= 1"),
        ("threads", "9" * 30, f"'{'9' * 30}' is not a whole number >= 1"),
        ("level", "some", "'some' is not one of none, all"),
        ("rate", "nan", "'nan' is not a number"),
        ("rate", "half", "'half' is not a number"),
        ("fast", "yes", "'yes' is not true or false"),
        ("fast", "", "'' is not true or false"),
        ("speed", "1", "unknown; valid options: fast, level, rate, threads"),
    ],
)
def test_wrong_value_names_what_is_valid(key, text, message):
    with pytest.raises(OptionError) as caught:
        parse_options(Options, {key: text})
    assert (caught.value.key, caught.value.message) == (key, message)
    assert str(caught.value) == f"option.{key}: {message}"


def test_engine_without_options_says_so():
    with pytest.raises(OptionError, match="valid options: none"):
        parse_options(NoOptions, {"x": "1"})


def test_all_wrong_values_are_found_together():
    typed, errors = check_options(Options, {"threads": "x", "fast": "true", "level": "y"})
    assert typed == {"fast": True}
    assert {error.key for error in errors} == {"threads", "level"}


def test_every_spelling_leads_to_its_field():
    assert {key: item.name for key, item in option_keys(Options).items()} == {
        "threads": "threads",
        "intraOpNumThreads": "threads",
        "level": "level",
        "rate": "rate",
        "fast": "fast",
    }


def test_field_of_another_type_is_the_engines_fault():
    with pytest.raises(TypeError, match=r"WrongOptions\.sizes: an option is str, int, float or bool"):
        parse_options(WrongOptions, {"sizes": "1"})


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"minimum": 400, "maximum": 599}, "from 400 to 599"),
        ({"maximum": 599}, "a whole number <= 599"),
        ({"minimum": 601}, "a whole number >= 601"),
    ],
)
def test_range_is_part_of_the_message(bounds, message):
    with pytest.raises(ValueError, match=message):
        parse_value("600", int, **bounds)

"""docs/compatibility.md says something true about every name of DJL Serving's public contracts."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.docs.pages import ROOT, Row, compatibility_rows, page, parts_that_come_later, surface

TEXT = page("compatibility")
ROWS = tuple(compatibility_rows(TEXT))
NAMED_TEST = re.compile(r"^`(tests/[\w/]+\.py)::(test_\w+)`$")


def problem(row: Row) -> str | None:
    """Return what is wrong with the status of a row, or None."""
    match row.status:
        case "done":
            return problem_with_test(row.detail)
        case "later":
            return None if row.detail in parts_that_come_later(TEXT) else f"no such part: {row.detail}"
        case "never":
            return None if len(row.detail) > 10 else "no reason"
    return f"no such status: {row.status}"


def problem_with_test(detail: str) -> str | None:
    """Return why `path::name` names no test, or None."""
    named = NAMED_TEST.match(detail)
    if named is None:
        return f"names no test: {detail}"
    path = ROOT / named[1]
    if not path.is_file():
        return f"no such file: {named[1]}"
    if not re.search(rf"def {named[2]}\b", path.read_text()):
        return f"no such test in {named[1]}: {named[2]}"
    return None


@pytest.mark.parametrize("title", surface())
def test_each_name_has_one_row_and_each_row_a_name(title: str) -> None:
    names = Counter(surface()[title])
    rows = Counter(row.name for row in ROWS if row.section == title)
    assert rows - names == Counter()
    assert names - rows == Counter()
    assert set(names.values()) == {1}


def test_every_section_of_the_page_is_in_the_surface() -> None:
    assert {row.section for row in ROWS} == set(surface())


def test_every_status_is_true() -> None:
    wrong = [f"{row.section} / {row.name}: {said}" for row in ROWS if (said := problem(row))]
    assert wrong == []


@pytest.mark.parametrize(
    ("status", "detail", "said"),
    [
        ("done", "`tests/docs/nowhere.py::test_x`", "no such file"),
        ("done", "`tests/docs/test_compatibility.py::test_nothing_of_the_kind`", "no such test"),
        ("done", "", "names no test"),
        ("later", "some day", "no such part"),
        ("never", "", "no reason"),
        ("maybe", "who knows", "no such status"),
    ],
)
def test_a_false_status_is_found(status: str, detail: str, said: str) -> None:
    found = problem(Row(section="s", name="n", status=status, detail=detail, note=""))
    assert found is not None
    assert said in found


def test_what_is_accepted_with_a_warning_says_what_to_use() -> None:
    silent = [row.name for row in ROWS if row.detail == "accepted with a warning" and len(row.note) < 10]
    assert silent == []

"""Source files stay small and say what they are for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LIMIT = 400
FOLDERS = ("core/src", "plugins", "tests", "examples", "benchmarks")
GENERATED = {"_generated", "__pycache__", "model_store", ".cache"}


def sources() -> list[Path]:
    """Return every Python file that people write."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in files if not GENERATED & set(path.relative_to(ROOT).parts))


def test_no_file_is_over_the_limit() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LIMIT} == {}


@pytest.mark.parametrize("folder", FOLDERS[:3])
def test_each_module_says_first_what_it_does(folder: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.is_relative_to(ROOT / folder) and path.read_text() and not says_what_it_does(path.read_text())
    ]
    assert silent == []


def says_what_it_does(source: str) -> bool:
    """Tell whether the docstring is the first statement and its first line has words."""
    return (
        source.startswith('"""')
        and len((ast.get_docstring(ast.parse(source)) or "").split("\n")[0].split()) >= 3
    )


def test_a_module_without_a_docstring_is_found() -> None:
    assert not says_what_it_does("import os\n")
    assert not says_what_it_does('"""Short."""\n')
    assert says_what_it_does('"""Do a thing well."""\n')

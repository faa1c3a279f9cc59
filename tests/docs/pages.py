"""Read the documentation's pages: tables, code blocks, words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINE = re.compile(r"^\| (?P<name>.+?) \| (?P<where>.+?) \| (?P<status>.+?) \| (?P<note>.*?) ?\|$")
HEADINGS = {"name", "---", "part"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of docs/compatibility.md."""

    section: str
    name: str
    status: str
    detail: str
    note: str


def compatibility_rows(text: str) -> Iterator[Row]:
    """Yield the rows of the page's four-column tables, with the heading that they stand under."""
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        match = LINE.match(line)
        if match is None or match["name"] in HEADINGS:
            continue
        status, _, detail = match["status"].partition(": ")
        name = match["name"].strip("`")
        yield Row(section=section, name=name, status=status, detail=detail, note=match["note"])


def parts_that_come_later(text: str) -> set[str]:
    """Return the first column of the table under `Parts that come later`."""
    chapter = text.split("## Parts that come later", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| ([^|]+?) \|", chapter, re.MULTILINE)) - HEADINGS


def surface() -> dict[str, list[str]]:
    """Return DJL Serving's names by the title of their section."""
    data = tomllib.loads((ROOT / "tests/docs/surface.toml").read_text())
    return {section["title"]: section["names"] for section in data.values()}


def page(name: str) -> str:
    """Return the text of docs/<name>.md."""
    return (DOCS / f"{name}.md").read_text()


def words_in_code(text: str) -> set[str]:
    """Return what stands in code spans, whole and split at what is no part of a name."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return set(spans) | {word for span in spans for word in re.split(r"[^\w.\[\]/{}-]+", span)}


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of one language, in order."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced code block.

    Attributes:
        line: where it begins, from 1.
    """

    language: str
    text: str
    line: int


def fences(name: str) -> list[Fence]:
    """Return all code blocks of docs/<name>.md, in order."""
    text = page(name)
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Fence(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]

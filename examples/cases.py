"""Read `cases.toml`: which requests there are and how they are sent."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One entry of cases.toml, which describes the fields."""

    model: str
    engine: str
    request: str
    content_type: str
    accept: str
    says: str
    excerpt: tuple[tuple[str | int, ...], ...] = ((),)
    show: str | None = None
    shows: str = ""

    @property
    def request_file(self) -> Path:
        """The body that is sent."""
        return HERE / "requests" / self.model / self.request

    @property
    def known_name(self) -> str:
        """The name of the file with the known answer, beside the request file."""
        return f"{Path(self.request).stem}.known.json"


def read_cases(path: Path = HERE / "cases.toml") -> list[Case]:
    """Return the cases in the order of the file."""
    with path.open("rb") as stream:
        entries = tomllib.load(stream)["case"]
    for entry in entries:
        if "excerpt" in entry:
            entry["excerpt"] = tuple(tuple(steps) for steps in entry["excerpt"])
    return [Case(**entry) for entry in entries]

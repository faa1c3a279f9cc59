"""`frame profile`: measure a model's batches, print them, write them for `frame simulate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from frame.cli.measuring import Subject, measure
from frame.cli.simulate import read_plan
from frame.errors import ConfigError
from frame.simulate.service import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFlags:
    """Flags of `frame profile`; `data` is a body, or `@` and the name of its file."""

    data: str
    content_type: str
    batch_size: int | None
    repeat: int
    output: str | None
    as_json: bool


def profile_model(model: str, flags: ProfileFlags, environ: Mapping[str, str]) -> str:
    """Measure a model and return the report.

    Raises:
        FrameError: its configuration is wrong, it does not load, or it does not answer the request.
    """
    plan = read_plan(model, {"batch_size": flags.batch_size}, environ)
    subject = Subject(
        model=model,
        name=plan.name,
        device="+".join(plan.places[0].devices),
        sizes=batch_sizes(plan.config.batch_size),
        body=_body(flags.data),
        content_type=flags.content_type,
        repeat=flags.repeat,
        timeout=plan.config.model_loading_timeout,
    )
    profile = measure(subject)
    text = json.dumps(profile.to_json(), indent=2)
    if flags.output is not None:
        try:
            Path(flags.output).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output {flags.output}: cannot be written: {error.strerror}") from error
    return text if flags.as_json else render_profile(profile)


def batch_sizes(largest: int) -> Sequence[int]:
    """Return 1, 2, 4, … and the largest."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest == 1 else [*sizes, largest]


def render_profile(profile: Profile) -> str:
    """Return the profile as people read it."""
    table = Table(box=None, pad_edge=False)
    for name in ("requests", "batches", "median", "fastest", "slowest", "requests/s of one worker"):
        table.add_column(name)
    for item in profile.batches:
        middle = median(item.seconds)
        times = (middle, min(item.seconds), max(item.seconds))
        shown = (f"{seconds * 1000:.2f} ms" for seconds in times)
        table.add_row(str(item.size), str(len(item.seconds)), *shown, f"{item.size / middle:.1f}")
    text = StringIO()
    Console(file=text, width=120).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    outside = f"{median(profile.overhead) * 1000:.2f} ms of a request is neither queue nor worker"
    return "\n".join(
        [*lines, "", outside, f"{profile.load_seconds:.2f} s from a worker's end to the next one"]
    )


def _body(data: str) -> bytes:
    """Return the body of a request.

    Raises:
        ConfigError: its file cannot be read.
    """
    if not data.startswith("@"):
        return data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--data {data}: cannot be read: {error.strerror}") from error

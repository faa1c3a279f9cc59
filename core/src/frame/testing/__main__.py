"""`python -m frame.testing MODEL REQUEST…`: run a model on files, in a worker but without a server."""

from __future__ import annotations

import mimetypes
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from frame.contract.requests import Request
from frame.testing.requests import body_request
from frame.testing.workbench import Answered, Workbench, WorkbenchError

_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".ndlist": "tensor/ndlist",
    ".npz": "tensor/npz",
    ".safetensors": "tensor/safetensors",
    ".txt": "text/plain",
}
_SHOWN_BYTES = 2000
_FAILED = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("requests", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--engine", help="Its engine; unset: as its files say.")
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="A key of serving.properties.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of each request.")
@click.option("--content-type", help="Of each request; unset: by the files' names.")
@click.option("--together", is_flag=True, help="Ask all requests at once, in one batch.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Ask so many times.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for whole answers.")
@click.option("--timeout", default=240.0, show_default=True, help="Seconds for the load, and for an answer.")
def main(
    model: Path,
    requests: Sequence[Path],
    engine: str | None,
    given: Sequence[str],
    headers: Sequence[str],
    content_type: str | None,
    together: bool,  # noqa: FBT001  # click passes it by name
    repeat: int,
    output: Path | None,
    timeout: float,
) -> None:
    """Load MODEL (a folder or a file) as `frame serve` would, ask it the REQUEST files, and tell the times.

    Without a request it is loaded and closed. Ends with 1 when it does not load, or an answer is an error.
    """
    settings = dict(_pair(text, "=", "--set") for text in given)
    asked = [_request(path, content_type, headers) for path in requests]
    bench = Workbench(
        model,
        engine=engine,
        settings=settings,
        batch_size=max(1, len(asked)) if together else 1,
        timeout=timeout,
    )
    started = time.perf_counter()
    try:
        with bench:
            click.echo(f"loaded in {time.perf_counter() - started:.3f} s, {bench.describe()}")
            answers = _ask(bench, asked, together=together, repeat=repeat)
    except WorkbenchError as error:
        click.echo(f"{model}: {error}", err=True)
        sys.exit(_FAILED)
    for path, answer in zip(requests, answers, strict=True):
        _show(path, answer, output)
    if any(answer.is_error for answer in answers):
        sys.exit(_FAILED)


def _pair(text: str, sign: str, what: str) -> tuple[str, str]:
    key, found, value = text.partition(sign)
    if not found or not key.strip():
        raise click.BadParameter(f"{text!r}: expected NAME{sign}VALUE", param_hint=what)
    return key.strip(), value.strip()


def _request(path: Path, content_type: str | None, headers: Sequence[str]) -> Request:
    guessed = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0]
    more = {name.lower(): value for name, value in (_pair(text, ":", "--header") for text in headers)}
    kind = content_type or guessed or "application/octet-stream"
    return body_request(path.read_bytes(), kind, id=path.name, **more)


def _ask(bench: Workbench, asked: Sequence[Request], *, together: bool, repeat: int) -> list[Answered]:
    """Ask again and again; return the last answers, and tell how long all of them took."""
    answers: list[Answered] = []
    rounds: list[tuple[float, float]] = []
    for _ in range(repeat if asked else 0):
        answers = []
        for group in [asked] if together else [[request] for request in asked]:
            started = time.perf_counter()
            answers += bench.ask(*group)
            rounds.append((time.perf_counter() - started, answers[-1].inference))
    if rounds:
        whole, inside = sorted(seconds for seconds, _ in rounds), sorted(inner for _, inner in rounds)
        size = len(asked) if together else 1
        click.echo(f"{len(rounds)} batches of {size}: {_millis(whole)}; in the model {_millis(inside)}")
    return answers


def _millis(seconds: Sequence[float]) -> str:
    """Return the first, middle and last of sorted times."""
    middle = seconds[len(seconds) // 2]
    if len(seconds) == 1:
        return f"{1000 * middle:.2f} ms"
    return f"{1000 * seconds[0]:.2f} to {1000 * seconds[-1]:.2f} ms, median {1000 * middle:.2f}"


def _show(path: Path, answer: Answered, output: Path | None) -> None:
    kind = answer.content_type or "no content type"
    pieces = "" if answer.chunks is None else f" in {len(answer.chunks)} pieces"
    click.echo(f"\n{path}: {answer.status}, {kind}, {len(answer.body)} bytes{pieces}")
    if answer.message:
        click.echo(answer.message)
    if not answer.is_whole:
        click.echo("the stream broke off")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{path.name}.answer").write_bytes(answer.body)
        return
    try:
        click.echo(answer.body[:_SHOWN_BYTES].decode("utf-8"))
    except UnicodeDecodeError:
        click.echo(f"(bytes; --output writes them to a folder) {answer.body[:32].hex(' ')}")


if __name__ == "__main__":
    main(prog_name="python -m frame.testing")

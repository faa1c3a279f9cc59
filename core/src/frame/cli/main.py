"""Commands and their flags; the work is done elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from frame import __version__
from frame.cli.simulate_flags import profile_options, simulate_options
from frame.errors import FrameError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        result = frame.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except FrameError as error:
        click.echo(f"frame: {error}", err=True)
        return error.exit_code
    return result if isinstance(result, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="frame")
def frame() -> None:
    """Serve models of any framework from one endpoint."""


def _store_options(function: FunctionT) -> FunctionT:
    """Add what `serve` and `check` share."""
    for decorate in reversed(
        (
            click.argument("store", required=False, type=click.Path()),
            click.option(
                "-m",
                "--models",
                "models",
                multiple=True,
                metavar="[NAME=]URL",
                help="A model to serve; repeatable.",
            ),
            click.option("-s", "--model-store", "store_flag", type=click.Path(), help="The same as STORE."),
            click.option("-f", "--config-file", type=click.Path(), help="config.properties of the server."),
            click.option("--host", help="Address to listen on."),
            click.option(
                "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 lets the system choose."
            ),
            click.option(
                "--http-server", type=click.Choice(["hypercorn", "uvicorn"]), help="HTTP server to use."
            ),
            click.option("--lenient", is_flag=True, help="Warn of unknown keys instead of refusing them."),
        )
    ):
        function = decorate(function)
    return function


@frame.command()
@_store_options
@click.option(
    "--log-level",
    default="INFO",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
    help="Of the log on stderr.",
)
def serve(log_level: str, **flags: Any) -> int:
    """Serve the models of STORE until SIGTERM or Ctrl-C."""
    from frame.cli.serving import serve_forever
    from frame.cli.settings import read_settings

    settings = read_settings(**flags, environ=os.environ)
    return serve_forever(settings, log_level=log_level)


@frame.command()
@_store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, as_json: bool, **flags: Any) -> int:
    """Say what would be served, by which engine, and where each setting comes from; serve nothing."""
    from frame.cli.check import check_exit_code, check_models
    from frame.cli.settings import read_settings

    settings = read_settings(**flags, environ=os.environ)
    catalog, report = check_models(settings, as_json=as_json)
    click.echo(report)
    for plugin in settings.plugins.broken:
        click.echo(
            f"warning: plugin {plugin.name} ({plugin.distribution}) is broken: {plugin.reason}", err=True
        )
    return check_exit_code(catalog)


@frame.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def engines(*, as_json: bool) -> int:
    """List the engines that plugins bring, and the plugins that are broken."""
    from frame.cli.engines import render_engines
    from frame.plugins import load_plugins

    click.echo(render_engines(load_plugins(), as_json=as_json))
    return 0


@frame.command()
@click.argument("model", required=False, type=click.Path())
@simulate_options
def simulate(model: str | None, **flags: Any) -> int:
    """Say what a load would see: the server's own policies with made-up time.

    MODEL is a model's folder, whose settings are used; flags go before them.
    """
    from frame.cli.simulate import simulate_command

    click.echo(simulate_command(model, flags, os.environ))
    return 0


@frame.command()
@click.argument("model", type=click.Path())
@profile_options
def profile(model: str, reference: bool, **flags: Any) -> int:  # noqa: FBT001  # a flag
    """Measure how long a model's batches take, for `frame simulate --service FILE`."""
    if reference:
        from frame.cli.reference import save_reference

        click.echo(save_reference(model, os.environ))
        return 0
    from frame.cli.profile import ProfileFlags, profile_model

    click.echo(profile_model(model, ProfileFlags(**flags), os.environ))
    return 0


@frame.command()
@click.argument("model")
@click.option("--version", "version", help="Version of the model; unset: the newest.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Address of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(*, model: str, version: str | None, url: str, as_json: bool) -> int:
    """Say why a served model batches and scales as it does, and what would change it."""
    from frame.cli.explain import explain_model

    click.echo(explain_model(url, model, version, as_json=as_json))
    return 0


@frame.command("new-engine")
@click.argument("name")
@click.option("--into", "folder", type=click.Path(file_okay=False), default=".", help="Where it is made.")
def new_engine(*, name: str, folder: str) -> int:
    """Make a distribution with a small engine that works, to be changed into one's own."""
    from frame.cli.scaffold import write_engine

    for path in write_engine(name, Path(folder)):
        click.echo(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

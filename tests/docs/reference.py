"""The documentation's reference tables, made from the code that reads the settings and serves the routes.

`python -m tests.docs.reference` writes them into the pages between the marks `<!-- begin NAME -->` and
`<!-- end NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial

import click
from frame.api import EngineSpec
from frame.cli.main import frame
from frame.config.keys import ARGUMENTS, MODEL_KEYS, Key
from frame.config.server_keys import SERVER_KEYS
from frame.contract.options import option_keys, option_type
from frame.http.routes import default_table
from frame.plugins import load_plugins

from tests.docs.pages import DOCS

PAGES = ("configuration", "http-api")


def installed_engines() -> list[EngineSpec]:
    """Return the engines of every installed plugin, by name."""
    return sorted(load_plugins().engines, key=lambda spec: spec.name)


def known_keys() -> set[str]:
    """Return every key that a configuration may have."""
    server = {key.name for key in SERVER_KEYS}
    model = {name for key in MODEL_KEYS for name in (key.name, *key.aliases)}
    per_device = {f"{device}.{key.name}" for key in MODEL_KEYS if key.per_device for device in ("cpu", "gpu")}
    options = {f"option.{name}" for spec in installed_engines() for name in option_keys(spec.options)}
    return server | model | per_device | options | set(ARGUMENTS) | {"engine"}


def row(*cells: str) -> str:
    """Write one row of a table; what Markdown or HTML would take for its own is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def table(head: Iterable[str], rows: Iterable[str]) -> str:
    """Write a table."""
    names = tuple(head)
    return "\n".join([row(*names), row(*("---" for _ in names)), *rows])


def shown(default: object) -> str:
    """Write a default as a user would."""
    if default is None or default == {}:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{';'.join(str(item) for item in default)}`"
    return f"`{default}`" if str(default) else "empty"


def spellings(name: str, aliases: Iterable[str], *, per_device: bool = False) -> str:
    """Write a key with its other spellings."""
    device = f", `gpu.{name}`, `cpu.{name}`" if per_device else ""
    others = "".join(f", `{alias}`" for alias in aliases)
    return f"`{name}`{device}{others}"


def key_rows(keys: Iterable[Key]) -> Iterable[str]:
    """Write the rows of keys that the server reads."""
    for key in keys:
        variables = "".join(f" Also `{name}` of the environment." for name in key.variables)
        names = spellings(key.name, key.aliases, per_device=key.per_device)
        yield row(names, key.kind.__name__, shown(key.default), key.doc + variables)


def option_table(spec: EngineSpec) -> str:
    """Write the table of an engine's own options."""
    rows = []
    for item in fields(spec.options):
        kind, _ = option_type(spec.options, item)
        names = spellings(
            f"option.{item.name}", (f"option.{alias}" for alias in item.metadata.get("aliases", ()))
        )
        rows.append(row(names, kind.__name__, shown(item.default), item.metadata["doc"]))
    return table(("key", "type", "default", "meaning"), rows)


def engine_table() -> str:
    """Write the table of the engines."""
    rows = (
        row(f"`{spec.name}`", ", ".join(f"`{name}`" for name in spec.aliases) or "-",
            ", ".join(f"`{name}`" for name in spec.claims) or "see below")
        for spec in installed_engines()
    )  # fmt: skip
    return table(("engine", "other names", "files it claims"), rows)


def route_table() -> str:
    """Write the table of the routes."""
    rows = (
        row("any" if "*" in point.methods else ", ".join(point.methods), f"`{point.path}`", point.route_class,
            point.summary)
        for point in default_table().endpoints
    )  # fmt: skip
    return table(("method", "path", "class", "what"), rows)


def command_table() -> str:
    """Return each command with its arguments and flags."""
    rows = []
    for name, command in sorted(frame.commands.items()):
        arguments = [item for item in command.params if isinstance(item, click.Argument)]
        usage = ["frame", name, *(item.make_metavar(click.Context(command)) for item in arguments)]
        rows.append(row(f"**`{' '.join(usage)}`**", "", command.get_short_help_str(200)))
        for item in command.params:
            if isinstance(item, click.Option):
                spelt = ", ".join(f"`{each}`" for each in (*item.opts, *item.secondary_opts))
                is_set = isinstance(item.default, str | int | float) and item.default not in {False, ""}
                rows.append(row(spelt, f"`{item.default}`" if is_set else "", item.help or ""))
    return table(("command or flag", "default", "meaning"), rows)


def references() -> dict[str, Callable[[], str]]:
    """Return the makers of all reference tables by name."""
    head = ("key", "type", "default", "meaning")
    made: dict[str, Callable[[], str]] = {
        "model keys": lambda: table(head, key_rows(MODEL_KEYS)),
        "server keys": lambda: table(head, key_rows(SERVER_KEYS)),
        "arguments": lambda: table(
            ("key", "meaning"), (row(f"`{name}`", doc) for name, doc in ARGUMENTS.items())
        ),
        "engines": engine_table,
        "routes": route_table,
        "commands": command_table,
    }
    for spec in installed_engines():
        made[f"options of {spec.name}"] = partial(option_table, spec)
    return made


def marked(name: str) -> re.Pattern[str]:
    """Match what stands between the marks of a reference table."""
    name = re.escape(name)
    return re.compile(rf"(?<=<!-- begin {name} -->\n)(.*?)(?=<!-- end {name} -->)", re.DOTALL)


def main() -> None:
    """Write every table into its place."""
    for name in PAGES:
        path = DOCS / f"{name}.md"
        text = path.read_text()
        for reference, make in references().items():
            made = f"\n{make()}\n\n"
            text = marked(reference).sub(made.replace("\\", r"\\"), text)
        path.write_text(text)


if __name__ == "__main__":
    main()

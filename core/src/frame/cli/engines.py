"""The table of `frame engines`."""

from __future__ import annotations

import importlib.util
import json
from io import StringIO

from rich.console import Console
from rich.table import Table

from frame.contract.engines import EngineSpec
from frame.plugins import Plugins


def engine_status(spec: EngineSpec) -> str:
    """Return `ready`, or what is not installed and the command that installs it."""
    for module, command in spec.requires.items():
        if importlib.util.find_spec(module) is None:
            return f"not installed: {command}"
    return "ready"


def _rows(plugins: Plugins) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "engine": spec.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "aliases": list(spec.aliases),
            "claims": list(spec.claims),
            "status": engine_status(spec),
            "import_seconds": round(plugin.import_seconds, 4),
        }
        for plugin in plugins.loaded
        for spec in plugin.engines
    ]
    rows += [
        {
            "engine": None,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "aliases": [],
            "claims": [],
            "status": f"broken plugin {plugin.name}: {plugin.reason}",
            "import_seconds": None,
        }
        for plugin in plugins.broken
    ]
    return rows


def render_engines(plugins: Plugins, *, as_json: bool) -> str:
    """Return the engines as a table or as JSON; broken plugins come last."""
    rows = _rows(plugins)
    if as_json:
        return json.dumps(rows, indent=2)
    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ("engine",):
        table.add_column(str(name).replace("_", " "), overflow="fold")
    for row in rows:
        cells = (
            ", ".join(value) if isinstance(value, list) else "-" if value is None else str(value)
            for value in row.values()
        )
        table.add_row(*cells)
    text = StringIO()
    Console(file=text, width=160).print(table)
    return text.getvalue().rstrip()

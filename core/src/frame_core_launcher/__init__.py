"""The `frame` command: starts Frame only when the module `frame` is Frame's.

PyPI's `frame` is another project that installs the same module; whichever was installed last wins.
"""

from __future__ import annotations

import importlib
import sys

REMEDY = """\
frame: the Python module `frame` at {path} does not belong to frame-core.
The project named `frame` on the package index installs a module of the same name. Remedy:
    pip uninstall frame
    pip install --force-reinstall --no-deps frame-core
"""


def main() -> int:
    """Check whose `frame` was imported, then run the command line; return its exit code."""
    module = importlib.import_module("frame")
    if getattr(module, "DISTRIBUTION", None) != "frame-core":
        sys.stderr.write(REMEDY.format(path=getattr(module, "__file__", None) or list(module.__path__)))
        return 1
    cli = importlib.import_module("frame.cli")
    result: int = cli.main()
    return result

"""The folder that is a worker's PYTHONPATH: links to the worker half and one engine's packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import frame
from frame.contract.engines import EngineSpec
from frame.errors import PluginError

WORKER_MODULES = ("__init__.py", "api.py", "contract", "wire", "worker")
"""What of `frame` a worker may import."""


def make_bundle(folder: Path, spec: EngineSpec) -> Path:
    """Fill `folder` with links and return it; it must not exist yet.

    Raises:
        PluginError: one of the engine's packages cannot be found.
    """
    core = Path(frame.__file__).parent
    (folder / "frame").mkdir(parents=True)
    for name in WORKER_MODULES:
        (folder / "frame" / name).symlink_to(core / name)
    for package in dict.fromkeys((spec.target.partition(":")[0].partition(".")[0], *spec.packages)):
        if package != "frame":
            origin = find_package(package, spec.name)
            (folder / origin.name).symlink_to(origin)
    return folder


def find_package(package: str, engine: str) -> Path:
    """Return the folder (or single file) of a top-level package without importing it."""
    found = importlib.util.find_spec(package)
    if found is None:
        raise PluginError(f"engine {engine}: package {package} is not installed")
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    if found.origin is None:
        raise PluginError(f"engine {engine}: package {package} has no files")
    return Path(found.origin)

"""Import a model's code from its folder, once, and take it out again."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import CodeType, ModuleType


class ModelFolder:
    """The model folder as current directory and first on `sys.path`; `leave` undoes both."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._previous: str | None = None
        self._is_on_path = False

    def enter(self) -> None:
        """Make the folder the place that relative paths and imports start from."""
        if self._previous is None:
            self._previous = str(Path.cwd())
            os.chdir(self.path)
        if self.path not in sys.path:
            sys.path.insert(0, self.path)
            self._is_on_path = True
        importlib.invalidate_caches()

    def leave(self) -> None:
        """Restore the current directory and forget the folder's modules."""
        if self._previous is not None:
            os.chdir(self._previous)
            self._previous = None
        if self._is_on_path and self.path in sys.path:
            sys.path.remove(self.path)
            self._is_on_path = False
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(self.path + os.sep):
                del sys.modules[name]


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: what is cached may be of a file that changed within the same second."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the file as it is now; nothing is written beside it."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_file(folder: str, file: str) -> ModuleType:
    """Run a file once as a module.

    The module gets the file's own name, so that pickles of its classes load again and files beside it may
    import it, unless that name belongs to another module. `file` is absolute, or relative to `folder`.

    Raises:
        ValueError: there is no such file. Whatever the file raises passes through.
    """
    path = Path(folder, file)
    if not path.is_file():
        raise ValueError(f"entry point {file} is not a file of the model folder")
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise ValueError(f"entry point {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    is_whole = False
    try:
        spec.loader.exec_module(module)
        is_whole = True
    finally:
        if not is_whole:
            sys.modules.pop(spec.name, None)
    return module


def _module_name(path: Path) -> str:
    stem = path.stem
    if not stem.isidentifier() or stem in sys.modules or stem in sys.stdlib_module_names:
        return f"frame_model_{''.join(c if c.isalnum() else '_' for c in stem)}"
    found = importlib.util.find_spec(stem)
    is_free = found is None or (found.origin is not None and Path(found.origin) == path)
    return stem if is_free else f"frame_model_{stem}"


def list_files(folder: str) -> list[str]:
    """Return paths in a folder at most two levels deep, with `/`, sorted."""
    root = Path(folder)
    deep = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_file()]
    return sorted(path.relative_to(root).as_posix() for path in deep)

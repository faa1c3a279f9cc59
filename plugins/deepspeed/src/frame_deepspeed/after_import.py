"""Run a function right after a module was imported, without importing it before somebody needs it."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]


def after_import(name: str, action: Action) -> None:
    """Call `action` with the module `name` once it is imported; at once when it already is.

    A handler decides whether it imports torch or DeepSpeed at all, and a group that needs neither must not
    pay for them: importing both takes 3 s and 270 MB.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
        return
    finder = next((found for found in sys.meta_path if isinstance(found, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    finder.actions.setdefault(name, []).append(action)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the finders after it find, with a loader that runs the actions."""

    def __init__(self) -> None:
        self.actions: dict[str, list[Action]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wrap the loader of a module that somebody waits for."""
        if fullname not in self.actions:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.actions)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads as another loader does, then runs the actions; steps aside: the module has its own loader.

    The actions are taken when the module runs, not when it is found: `find_spec` is also how transformers
    asks whether a package is installed.
    """

    def __init__(self, loader: importlib.abc.Loader, actions: dict[str, list[Action]]) -> None:
        self._loader = loader
        self._actions = actions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the actions."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for action in self._actions.pop(module.__name__, []):
            action(module)

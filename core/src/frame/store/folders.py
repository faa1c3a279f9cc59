"""Look into folders: files of a model, models of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frame.api import FileEntry
from frame.errors import StoreError
from frame.store.urls import is_archive_name

PROPERTIES_FILE = "serving.properties"
WORKFLOW_FILES = ("workflow.json", "workflow.yml", "workflow.yaml")
_LEFTOVERS = frozenset({"__MACOSX", "__pycache__", "lost+found"})


@dataclass(frozen=True, slots=True)
class StoreListing:
    """Entries of a store: folders that are not empty and archives are models, all else is stray."""

    models: tuple[Path, ...]
    stray: tuple[Path, ...]


def list_store(store: Path) -> StoreListing:
    """Return the entries of a store, sorted; hidden ones and empty folders are skipped.

    Raises:
        StoreError: the folder cannot be read.
    """
    models: list[Path] = []
    stray: list[Path] = []
    for path in _entries(store):
        if path.is_dir():
            if not _is_empty(path):
                models.append(path)
        elif is_archive_name(path.name):
            models.append(path)
        else:
            stray.append(path)
    return StoreListing(tuple(models), tuple(stray))


def _is_empty(folder: Path) -> bool:
    """Tell whether a folder has no entries; one that cannot be read is a model, to be refused by its name."""
    try:
        return not _entries(folder)
    except StoreError:
        return False


def model_folder(folder: Path) -> Path:
    """Return the only sub-folder of a folder that holds nothing else, else the folder itself.

    Archives are often made of a folder, not of its contents; as in DJL Serving one level is skipped.
    """
    entries = _entries(folder)
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def list_files(folder: Path, levels: int = 2) -> tuple[FileEntry, ...]:
    """Return the files of a folder and of its sub-folders, sorted by path, but for hidden ones."""
    found: list[FileEntry] = []
    pending = [(folder, "", 1)]
    while pending:
        current, prefix, level = pending.pop()
        for path in _entries(current):
            if path.is_dir():
                if level < levels:
                    pending.append((path, f"{prefix}{path.name}/", level + 1))
            elif path.is_file():
                found.append(FileEntry(prefix + path.name, path.stat().st_size))
    return tuple(sorted(found, key=lambda entry: entry.path))


def _entries(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        message = f"{folder}: cannot be read: {error.strerror}"
        raise StoreError(message) from error
    return [path for path in paths if not path.name.startswith(".") and path.name not in _LEFTOVERS]

"""Engine plugins as data: what they claim, which options they have, how their groups are launched."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a model folder: path relative to it, with `/`, and size in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderListing:
    """What detection may look at: no file contents but the parsed serving.properties.

    Attributes:
        name: the model's name (archive or folder name, or `option.modelName`): DJL's `<prefix>`.
        files: files at most two levels deep, sorted.
        properties: keys as written in serving.properties.
    """

    name: str
    files: tuple[FileEntry, ...]
    properties: Mapping[str, str]

    def matching(self, pattern: str) -> list[str]:
        """Paths that match `pattern` (fnmatch); a pattern without `/` looks at the top level only."""
        deep = "/" in pattern
        return [
            f.path for f in self.files if (deep or "/" not in f.path) and fnmatch.fnmatch(f.path, pattern)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An engine's claim to a folder. The strongest wins; a tie between engines is an error.

    Strengths in use: 100 a handler that its author wrote (`model.py`), 50 the engine's own weights file,
    30 a file that others read too, 10 a hint (`config.json`).
    """

    strength: int
    model_file: str | None
    reason: str


def by_claims(spec: EngineSpec, listing: FolderListing) -> Claim | None:
    """Claim a folder with strength 50 when a file matches one of `spec.claims`.

    With several matches the one named `<model name>.*` wins, then `model.*`, then the first by name.
    """
    found = [path for pattern in spec.claims for path in listing.matching(pattern)]
    if not found:
        return None

    def rank(path: str) -> tuple[int, str]:
        stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        return (0 if stem == listing.name else 1 if stem == "model" else 2, path)

    best = min(found, key=rank)
    return Claim(strength=50, model_file=best, reason=f"found {best}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksRequest:
    """What `EngineSpec.ranks` may look at.

    Attributes:
        options: the engine's options, typed.
        accelerators: devices that one host's groups may be put on; 0 on a machine that has none.
        environ: the server's environment.
    """

    options: Any
    accelerators: int
    environ: Mapping[str, str]


def one_rank(request: RanksRequest) -> int:
    """Return 1: the engine's groups are single processes."""
    del request
    return 1


def this_host(options: Any) -> str | None:
    """Return None: all ranks of a group run on the router's host."""
    del options
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What `EngineSpec.preflight` may look at before anything is started.

    Attributes:
        path: the model folder, absolute.
        model_file: what detection found, relative to `path`.
        options: the engine's options, typed.
        properties: every option and argument as strings.
        ranks: processes of a group.
        devices: the devices of one group: `("cpu",)`, `("gpu0", "gpu1")`.
        interpreter: the Python executable of the workers.
        environ: the server's environment.
    """

    path: str
    model_file: str | None
    options: Any
    properties: Mapping[str, str]
    ranks: int
    devices: tuple[str, ...]
    interpreter: str
    environ: Mapping[str, str]


def nothing_to_check(preflight: Preflight) -> Iterable[str]:
    """Return no problem."""
    del preflight
    return ()


@dataclass(frozen=True, slots=True)
class NoOptions:
    """An engine without `option.*` keys of its own."""


def option(
    default: Any,
    doc: str,
    *,
    aliases: Iterable[str] = (),
    choices: Iterable[str] = (),
    minimum: int | None = None,
) -> Any:
    """Declare one `option.*` key as a dataclass field.

    Field types: `str`, `int`, `float`, `bool`, each also `| None`. The field's name is the key.

    Args:
        aliases: other spellings accepted in serving.properties (DJL's camelCase ones, for example).
        choices: the only values allowed, when not empty.
        minimum: smallest number allowed.
    """
    metadata = {"doc": doc, "aliases": tuple(aliases), "choices": tuple(choices), "minimum": minimum}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What `EngineSpec.launch` turns into a command.

    Attributes:
        interpreter: the Python executable for the worker.
        arguments: the worker's own arguments (`-m frame.worker …`), to be put after the interpreter.
        environment: the allow-listed environment with PYTHONPATH set.
        devices: devices of the group.
        ranks: processes of the group; each finds its own number in RANK.
        options: the engine's options, typed.
        parent: the router's pid; what is started dies with it.
    """

    interpreter: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    devices: tuple[str, ...]
    ranks: int
    options: Any
    parent: int = 0


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """One process to start for a group: argv and its whole environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def launch_single(request: LaunchRequest) -> LaunchCommand:
    """Start one process: the interpreter with the worker's arguments."""
    return LaunchCommand((request.interpreter, *request.arguments), request.environment)


def launch_spawn(request: LaunchRequest) -> LaunchCommand:
    """Start the ranks on this host with no launcher of anybody's: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE.

    Every rank sees all devices of the group; its own are the LOCAL_RANK-th share. MASTER_ADDR and MASTER_PORT
    are set when the engine is imported.
    """
    launcher = ("-m", "frame.worker.launcher", "--parent", str(request.parent), "spawn")
    count = ("--ranks", str(request.ranks))
    argv = (request.interpreter, *launcher, *count, "--", request.interpreter, *request.arguments)
    return LaunchCommand(argv, request.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """An engine, as data: a plugin that yields it imports no framework.

    Attributes:
        name: `engine=` in serving.properties, case-insensitive.
        api: lowest and highest plugin API version it was written for.
        target: `"package.module:Class"` of the `Engine`, imported in workers only.
        aliases: other names (DJL Serving's, for example).
        claims: file patterns, shorthand for `detect`.
        detect: pure; given this spec and a folder listing.
        options: frozen dataclass of its `option.*` keys, each made with `option()`; light to import.
        open_options: unknown `option.*` keys go to the handler as strings.
        ranks: processes per group.
        fills_devices: a group on every `ranks` accelerators and no more: `minWorkers` and `maxWorkers`
            default to their number.
        listen_address: address of the router that ranks on other hosts connect to, from typed options; None
            when all of them run on this host.
        launch: pure; argv and environment of a group.
        preflight: what can be known to be wrong before a start: one message for each problem, which names
            the option and the remedy. May read small files of the folder; imports no framework.
        reference: arguments after the interpreter, from model folder and typed options, of a program that
            saves what a model says before anything is done to it, for a self-check, and prints where; None:
            the engine takes no references.
        requires: modules that must be importable, with the command that installs them when not.
        packages: further top-level packages that its workers import (the target's own needs no mention).
    """

    name: str
    api: tuple[int, int]
    target: str
    aliases: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    detect: Callable[[EngineSpec, FolderListing], Claim | None] = by_claims
    options: type = NoOptions
    open_options: bool = False
    ranks: Callable[[RanksRequest], int] = one_rank
    fills_devices: bool = False
    listen_address: Callable[[Any], str | None] = this_host
    launch: Callable[[LaunchRequest], LaunchCommand] = launch_single
    preflight: Callable[[Preflight], Iterable[str]] = nothing_to_check
    reference: Callable[[str, Any], Sequence[str]] | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

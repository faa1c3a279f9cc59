"""What a workflow computes from what: `{"out": ["model", ["function", "in"]]}` as a checked graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Union

INPUT, OUTPUT = "in", "out"
IDENTITY, APPLY, ENSEMBLE, ADAPTER = "id", "functionsApply", "ensemble", "adapter"
BUILT_IN = frozenset({IDENTITY, APPLY, ENSEMBLE, ADAPTER})
MAX_STEPS = 200
"""Calls and names of one workflow: whoever wrote it counts them."""
_MAX_DEPTH = 20

Kind = Literal["model", "function"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a name; `in` is the request."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A model or a function, run on values."""

    target: str
    kind: Kind
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """Several values, computed side by side: a list for the function that takes it."""

    items: tuple[Expression, ...]


Expression = Union[Ref, Call, Many]


class WorkflowError(ValueError):
    """The `workflow` section is wrong; says where and why."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A workflow's steps by name. Invariant: each name is there, none needs itself, `out` is one value.

    Attributes:
        unused: names that `out` does not need; they are not computed.
    """

    steps: Mapping[str, Expression]
    unused: tuple[str, ...] = ()

    @property
    def final(self) -> Ref | Call:
        """What the answer is: a call, or the request itself."""
        found: Expression = Ref(OUTPUT)
        while isinstance(found, Ref) and found.name != INPUT:
            found = self.steps[found.name]
        assert not isinstance(found, Many)
        return found

    def calls(self) -> Iterator[Call]:
        """Yield every call that may be made."""
        pending = [step for name, step in self.steps.items() if name not in self.unused]
        while pending:
            found = pending.pop()
            if isinstance(found, Call):
                yield found
                pending += found.arguments
            elif isinstance(found, Many):
                pending += found.items


def read_graph(section: object, models: frozenset[str], functions: frozenset[str]) -> Graph:
    """Read and check a `workflow` section.

    Args:
        models, functions: the names that calls may have, beside the built-in ones.

    Raises:
        WorkflowError: it is none.
    """
    if not isinstance(section, Mapping) or not section:
        raise WorkflowError('workflow: expected an object with an entry "out"')
    for name in section:
        if not isinstance(name, str) or not name:
            raise WorkflowError(f"workflow: {name!r} is no name")
        if name == INPUT:
            raise WorkflowError(f"workflow.{INPUT}: this is the request; give the step another name")
    if OUTPUT not in section:
        raise WorkflowError(f'workflow: no entry "{OUTPUT}", which is the answer')
    reader = _Reader(models, functions, frozenset(section))
    for name, written in section.items():
        reader.steps[name] = reader.read(written, f"workflow.{name}")
    _check_lists(reader.steps)
    needed = _needed(reader.steps)
    return Graph(reader.steps, tuple(sorted(section.keys() - needed)))


@dataclass(slots=True)
class _Reader:
    models: frozenset[str]
    functions: frozenset[str]
    names: frozenset[str]
    steps: dict[str, Expression] = field(default_factory=dict)
    _count: int = 0

    def read(self, written: object, where: str, depth: int = 0) -> Expression:
        self._count += 1
        if self._count > MAX_STEPS or depth > _MAX_DEPTH:
            raise WorkflowError(f"{where}: more than {MAX_STEPS} steps, or {_MAX_DEPTH} inside one another")
        if isinstance(written, str):
            if written != INPUT and written not in self.names:
                raise WorkflowError(
                    f"{where}: {written} is no step; there are {self._list({INPUT, *self.names})}"
                )
            return Ref(written)
        if not isinstance(written, list) or not written or not isinstance(written[0], str):
            raise WorkflowError(f'{where}: expected a name, or ["model or function", argument, ...]')
        target, arguments = written[0], written[1:]
        if target == APPLY:
            return self._apply(arguments, where, depth)
        if target == ADAPTER:
            raise WorkflowError(
                f"{where}: adapters are not supported; use a model that has the adapter merged"
            )
        read = tuple(
            self.read(item, f"{where}[{number}]", depth + 1) for number, item in enumerate(arguments, start=1)
        )
        if target == IDENTITY:
            self._check_count(read, where, IDENTITY)
            return read[0]
        return self._call(target, read, where)

    def _call(self, target: str, arguments: tuple[Expression, ...], where: str) -> Call:
        if target in self.models:
            self._check_count(arguments, where, f"the model {target}")
            return Call(target, "model", arguments)
        if target in self.functions or target == ENSEMBLE:
            if target == ENSEMBLE:
                self._check_count(arguments, where, ENSEMBLE)
            return Call(target, "function", arguments)
        known = self._list({*self.models, *self.functions, IDENTITY, APPLY, ENSEMBLE})
        raise WorkflowError(f"{where}: {target} is no model or function; there are {known}")

    def _apply(self, arguments: list[object], where: str, depth: int) -> Many:
        """Read `["functionsApply", ["one", "other"], value]`: the value is computed once."""
        if len(arguments) != 2 or not isinstance(arguments[0], list) or not arguments[0]:  # noqa: PLR2004
            raise WorkflowError(f'{where}: expected ["{APPLY}", ["one", "other"], argument]')
        value = self.read(arguments[1], f"{where}[2]", depth + 1)
        if not isinstance(value, Ref):
            hidden = f"{where}[2]"
            self.steps[hidden] = value
            value = Ref(hidden)
        items: list[Expression] = []
        for target in arguments[0]:
            if not isinstance(target, str):
                raise WorkflowError(f"{where}[1]: expected names of models and functions")
            items.append(value if target == IDENTITY else self._call(target, (value,), f"{where}[1]"))
        self._count += len(items)
        return Many(tuple(items))

    @staticmethod
    def _check_count(arguments: tuple[Expression, ...], where: str, target: str) -> None:
        if len(arguments) != 1:
            raise WorkflowError(f"{where}: {target} takes one argument, not {len(arguments)}")

    @staticmethod
    def _list(names: set[str]) -> str:
        return ", ".join(sorted(names))


def _check_lists(steps: Mapping[str, Expression]) -> None:
    """Refuse circles, and lists where one value is needed."""
    check = _ListCheck(steps)
    for name in steps:
        check.of_step(name, f"workflow.{name}")
    if check.kinds[OUTPUT]:
        raise WorkflowError(
            f"workflow.{OUTPUT}: it is a list; let a function, or {ENSEMBLE}, make one value of it"
        )


@dataclass(slots=True)
class _ListCheck:
    """Tells what is a list; `kinds` has None for a step that is being looked at."""

    steps: Mapping[str, Expression]
    kinds: dict[str, bool | None] = field(default_factory=dict)

    def of_step(self, name: str, where: str) -> bool:
        if name in self.kinds:
            known = self.kinds[name]
            if known is None:
                raise WorkflowError(f"{where}: it needs itself, by way of {name}")
            return known
        self.kinds[name] = None
        found = self._is_list(self.steps[name], name if name.startswith("workflow.") else f"workflow.{name}")
        self.kinds[name] = found
        return found

    def _is_list(self, found: Expression, where: str) -> bool:
        if isinstance(found, Ref):
            return found.name != INPUT and self.of_step(found.name, where)
        if isinstance(found, Many):
            for item in found.items:
                self._is_list(item, where)
            return True
        are_lists = [self._is_list(argument, where) for argument in found.arguments]
        if any(are_lists) and found.kind == "model":
            raise WorkflowError(f"{where}: the model {found.target} takes one value, not a list")
        return False


def _needed(steps: Mapping[str, Expression]) -> set[str]:
    found: set[str] = set()
    pending: list[Expression] = [Ref(OUTPUT)]
    while pending:
        item = pending.pop()
        if isinstance(item, Call):
            pending += item.arguments
        elif isinstance(item, Many):
            pending += item.items
        elif item.name != INPUT and item.name not in found:
            found.add(item.name)
            pending.append(steps[item.name])
    return found

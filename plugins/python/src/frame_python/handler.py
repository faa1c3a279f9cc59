"""The function that answers requests, found in the entry point, and one call of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from djl_python.custom_code import CustomCode
from djl_python.inputs import Input
from frame.api import Request, RequestError

from frame_python.answers import Answer, answer_batch, failure, follow_batch
from frame_python.batches import build_input

_log = logging.getLogger(__name__)
HandlerFunction = Callable[[Input], Any]
Read = Callable[[object, int], "list[Answer] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A loaded entry point.

    Attributes:
        module: where functions are looked up; None when there is no such module (TorchServe).
        function: the default function.
        function_name: `option.handler`.
        additions: properties that the server adds to each call.
        custom_code: what model.py replaces in a built-in handler.
        reset: called before every request, each of which is then run alone.
    """

    module: ModuleType | None
    function: HandlerFunction
    function_name: str
    additions: Mapping[str, Any]
    custom_code: CustomCode = field(default_factory=CustomCode)
    reset: Callable[[], object] | None = None

    @property
    def is_async(self) -> bool:
        """Tell whether the function must run on an asyncio loop."""
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    def named(self, name: str) -> HandlerFunction:
        """Return the function that a request asks for by its property `handler`.

        Raises:
            RequestError: 400, the entry point has no such public function.
        """
        if name == self.function_name:
            return self.function
        found = None if name.startswith("_") else getattr(self.module, name, None)
        if not inspect.isfunction(found):
            raise RequestError(400, f"handler={name}: the model has no function of this name")
        return found


def answer_requests(handler: Handler, requests: Sequence[Request]) -> list[Answer]:
    """Answer requests in order, in one call per function that they ask for (one per request with `reset`)."""
    answers = _call_all(handler, requests, answer_batch)
    return [answer for answer in answers if answer is not None]


def follow_requests(handler: Handler, requests: Sequence[Request]) -> list[Answer] | None:
    """Make the same calls on a rank that answers nobody; see `follow_batch`."""
    answers = [answer for answer in _call_all(handler, requests, follow_batch) if answer is not None]
    return answers if len(answers) == len(requests) else None


def _call_all(handler: Handler, requests: Sequence[Request], read: Read) -> list[Answer | None]:
    answers: list[Answer | None] = [None] * len(requests)
    for name, indexes in group_by_function(handler, requests).items():
        groups = [[index] for index in indexes] if handler.reset else [indexes]
        for group in groups:
            given = _call(handler, name, [requests[index] for index in group], read)
            for index, answer in zip(group, given or (), strict=given is not None):
                answers[index] = answer
    return answers


def group_by_function(handler: Handler, requests: Sequence[Request]) -> dict[str, list[int]]:
    """Return the positions of requests by the function that they ask for, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.properties.get("handler", handler.function_name), []).append(index)
    return groups


def _call(handler: Handler, name: str, requests: Sequence[Request], read: Read) -> list[Answer] | None:
    """Call the function once for these requests; what it raises answers all of them."""
    try:
        function = handler.named(name)
        if handler.reset:
            handler.reset()
        return read(function(build_input(requests, handler.additions, name)), len(requests))
    except RequestError as error:
        return [error] * len(requests)
    except Exception as error:  # noqa: BLE001  # fault line: around a handler's code
        _log.exception("handler_failed function=%s requests=%d", name, len(requests))
        return [failure(error)] * len(requests)

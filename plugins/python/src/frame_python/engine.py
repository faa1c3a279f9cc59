"""The Python engine: loads a handler, makes its first call, answers requests with it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, cast

from djl_python.outputs import Output
from frame.api import Engine, EngineContext, Model, ModelSpec, Request, RequestError

from frame_python.answers import Answer, answer_one, is_out_of_memory, run_finalizers
from frame_python.async_calls import AsyncLoop, answer_async
from frame_python.batches import build_first_input
from frame_python.handler import Handler, answer_requests, follow_requests
from frame_python.loading import find_entry_point, first_call_properties, load_handler
from frame_python.modules import ModelFolder
from frame_python.options import PythonOptions

_log = logging.getLogger(__name__)


class PythonModel(Model):
    """A loaded handler.

    A synchronous handler takes one call at a time, in the thread that loaded it, as in DJL Serving: the grad
    mode, the current CUDA device and database connections belong to a thread. An asynchronous one takes
    several.
    """

    def __init__(
        self,
        handler: Handler,
        folder: ModelFolder,
        loop: AsyncLoop | None,
        concurrency: int,
        *,
        is_follower: bool = False,
    ) -> None:
        """Own the handler; `is_follower`: this rank answers nobody."""
        self.concurrency = concurrency
        self._handler = handler
        self._folder = folder
        self._loop = loop
        self._is_follower = is_follower

    def predict(self, batch: Sequence[Request]) -> Sequence[Answer]:
        """Answer a batch by one call, or, when the handler is asynchronous, by one for each request."""
        if self._loop is not None:
            return answer_async(self._loop, self._handler, batch)
        if self._is_follower:
            # None says that nothing is known of what failed: the worker takes that from a rank that follows.
            return cast("Sequence[Answer]", follow_requests(self._handler, batch))
        return answer_requests(self._handler, batch)

    def close(self) -> None:
        """End the handler's loop and forget its modules. Idempotent."""
        if self._loop is not None:
            self._loop.close()
        self._folder.leave()


class PythonEngine(Engine):
    """Loads `model.py` handlers and their relatives. Call `load` and `predict` in one thread."""

    def load(self, spec: ModelSpec) -> Model:
        """Import the entry point once and make the handler's first, empty call, in which it loads its model.

        Without an entry point a model of transformers is served by the built-in handler.

        Raises:
            ValueError: there is no entry point or no function to call.
            RequestError: the first call failed; 507 for memory. What importing raises passes through.
        """
        options: PythonOptions = spec.options
        entry_point = find_entry_point(spec)
        if entry_point.kind == "built_in":
            return _load_built_in(spec, self.context)
        folder = ModelFolder(spec.path)
        folder.enter()
        loop: AsyncLoop | None = None
        is_loaded = False
        try:
            handler = load_handler(spec, self.context, entry_point)
            if handler.is_async if options.async_mode is None else options.async_mode:
                loop = AsyncLoop()
            _make_first_call(handler, first_call_properties(spec, handler), loop)
            is_loaded = True
        finally:
            if not is_loaded:
                if loop is not None:
                    loop.close()
                folder.leave()
        concurrency = 1 if loop is None else max(1, self.context.slots)
        return PythonModel(handler, folder, loop, concurrency, is_follower=self.context.rank > 0)


def _load_built_in(spec: ModelSpec, context: EngineContext) -> Model:
    """Load a model of transformers.

    Raises:
        ValueError: transformers is not installed, or what the handler says of the folder.
    """
    options: PythonOptions = spec.options
    if len(context.devices) > 1 or (options.tensor_parallel_degree or "1") not in {"1", "max"}:
        raise ValueError(
            "without a model.py this engine runs a model on one device; engine=DeepSpeed (pip install "
            "frame-deepspeed) cuts it over option.tensor_parallel_degree of them"
        )
    try:
        from frame_python.handlers.built_in import load_built_in
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "transformers"}:
            raise
        raise ValueError(
            f"a model of transformers without a model.py needs {error.name}: pip install torch transformers"
        ) from error
    return load_built_in(spec, context)


def _make_first_call(handler: Handler, properties: dict[str, Any], loop: AsyncLoop | None) -> None:
    inputs = build_first_input(properties, handler.function_name)
    try:
        result = handler.function(inputs) if loop is None else loop.run(_await_first(handler, inputs))
        _check_first_answer(result)
    except RequestError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise RequestError(507, f"OOM: {error}", type_name="OutOfMemoryError") from error
        text = f"{type(error).__name__}: {error}"
        raise RequestError(500, f"Failed to initialize model: {text}", type_name="LoadError") from error


def _check_first_answer(result: object) -> None:
    """Refuse the model when its first call answered with an error. A list answers nobody: ignored."""
    if isinstance(result, (list, tuple)):
        return
    if isinstance(result, Output):
        run_finalizers(result.finalizers)
        if result.code == 507:  # noqa: PLR2004  # Insufficient Storage: DJL Serving's status for memory
            raise RequestError(507, "OOM", type_name="OutOfMemoryError")
        if result.code >= 300:  # noqa: PLR2004  # DJL Serving's boundary between answers and errors
            details = [bytes(value).decode("utf-8", "replace") for value in result.content.get_values()[:1]]
            text = ": ".join([result.message, *details])
            raise RequestError(500, f"Failed to initialize model: {text}", type_name="LoadError")
        return
    answer = answer_one(result)
    if isinstance(answer, RequestError):
        raise RequestError(500, f"Failed to initialize model: {answer.message}", type_name="LoadError")


async def _await_first(handler: Handler, inputs: Any) -> object:
    """Make the first call on the loop; an asynchronous generator is asked for its first output."""
    result = handler.function(inputs)
    if inspect.isawaitable(result):
        result = await result
    if inspect.isasyncgen(result):
        async for output in result:
            await result.aclose()
            return output
        return None
    return result

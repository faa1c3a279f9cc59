"""Run an asynchronous handler: requests overlap on one asyncio loop, and so do their streams.

The loop runs in a thread of its own; slot threads wait for it. A stream's pump fills a small queue, so that
the streams of a batch make progress side by side although the worker reads them in turn; a full queue holds
the handler back.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar, cast

from djl_python.binary_map import decode_map
from djl_python.outputs import Output
from frame.api import Part, Request, RequestError, Response, ResponseStream

from frame_python.answers import Answer, answer_one, failure
from frame_python.batches import build_input
from frame_python.handler import Handler

_log = logging.getLogger(__name__)
_QUEUED_CHUNKS = 16
"""Chunks of one stream that wait for the client; then the handler's generator waits."""
_CHUNK_KEYS = frozenset({"data", "last", "code", "error"})
_CLOSE_SECONDS = 5.0
_Result = TypeVar("_Result")


class AsyncLoop:
    """An asyncio loop in a daemon thread. `close` cancels what runs on it and is idempotent."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="frame-handler-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop and wait for its result. Not to be called in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Cancel what runs, let it end, and stop the loop."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(_CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def answer_async(loop: AsyncLoop, handler: Handler, requests: Sequence[Request]) -> list[Answer]:
    """Answer requests in order, each by a call of its own; the calls overlap on the loop."""
    return loop.run(_answer_all(loop, handler, requests))


async def _answer_all(loop: AsyncLoop, handler: Handler, requests: Sequence[Request]) -> list[Answer]:
    return list(await asyncio.gather(*(_answer(loop, handler, request) for request in requests)))


async def _answer(loop: AsyncLoop, handler: Handler, request: Request) -> Answer:
    name = request.properties.get("handler", handler.function_name)
    try:
        result = handler.named(name)(build_input([request], handler.additions, name))
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__aiter__"):
            return await _begin(loop, cast("AsyncIterator[Any]", result))  # tested just above
        chunk = _chunk_of(result)
        return answer_one(result) if chunk is None else _whole(cast("Output", result), chunk)
    except RequestError as error:
        return error
    except Exception as error:  # noqa: BLE001  # fault line: around a handler's code
        _log.exception("handler_failed function=%s", name)
        return failure(error)


def _chunk_of(result: object) -> dict[str, str] | None:
    """Return the fields of an output that `Output.binary_encode` made, or None for any other."""
    if not isinstance(result, Output) or result.stream_content is not None or result.content.size() != 1:
        return None
    fields = decode_map(result.content.value_at(0))
    return fields if fields is not None and "last" in fields and fields.keys() <= _CHUNK_KEYS else None


def _is_last(fields: dict[str, str]) -> bool:
    return fields["last"].lower() == "true"


def _error_line(fields: dict[str, str]) -> bytes | None:
    """Return the JSON of a chunk that reports an error, or None."""
    code = _code_of(fields)
    if "error" not in fields and (code is None or code < 300):  # noqa: PLR2004  # below, the code is no error
        return None
    return (json.dumps({"error": fields.get("error", ""), "code": code or 424}) + "\n").encode("utf-8")


def _code_of(fields: dict[str, str]) -> int | None:
    code = fields.get("code", "")
    return int(code) if code.isdigit() else None


def _head(output: Output, code: int | None) -> Response:
    properties = {str(key): str(value) for key, value in output.properties.items() if value is not None}
    return Response(status=code or output.code, message=output.message, properties=properties)


def _whole(output: Output, fields: dict[str, str]) -> Response:
    """Return a chunk that is the whole answer; before any output an error sets the status."""
    error = _error_line(fields)
    head = _head(output, _code_of(fields) or (None if error is None else 424))
    body = fields.get("data", "").encode("utf-8") if error is None else error
    return Response(
        status=head.status, message=head.message, properties=head.properties, parts=(Part("data", body),)
    )


def _data_of(output: object) -> tuple[bytes, bool]:
    """Return the bytes of one item of a handler's asynchronous generator, and whether it is the last."""
    fields = _chunk_of(output)
    if fields is not None:
        error = _error_line(fields)
        return (fields.get("data", "").encode("utf-8"), _is_last(fields)) if error is None else (error, True)
    answer = answer_one(output)
    if not isinstance(answer, Response):
        raise TypeError(f"Invalid output type: {type(output)}")
    return (bytes(answer.parts[0].data) if answer.parts else b"", False)


async def _begin(loop: AsyncLoop, outputs: AsyncIterator[Any]) -> Answer:
    """Wait for the first output: it alone can set status and headers."""
    first = await anext_or_none(outputs)
    if not isinstance(first, Output):
        await _close_outputs(outputs)
        return answer_one(first)
    fields = _chunk_of(first)
    if fields is not None and (_is_last(fields) or _error_line(fields) is not None):
        await _close_outputs(outputs)
        return _whole(first, fields)
    pump = _Pump(loop, outputs, _data_of(first)[0])
    return ResponseStream(head=_head(first, None), chunks=pump.chunks(), close=pump.close)


async def anext_or_none(outputs: AsyncIterator[Any]) -> Any:
    """Return the next item, or None at the end."""
    try:
        return await outputs.__anext__()
    except StopAsyncIteration:
        return None


async def _close_outputs(outputs: AsyncIterator[Any]) -> None:
    if hasattr(outputs, "aclose"):
        await cast("AsyncGenerator[Any, None]", outputs).aclose()  # tested just above


class _Pump:
    """Moves a generator's outputs into a bounded queue until it ends, fails, or the reader closes.

    Invariants: an end (None) or an exception is the last thing put; `close` ends the generator.
    """

    def __init__(self, loop: AsyncLoop, outputs: AsyncIterator[Any], first: bytes) -> None:
        self._loop = loop
        self._outputs = outputs
        self._first = first
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_QUEUED_CHUNKS)
        self._task = asyncio.create_task(self._fill())  # ended and awaited by close

    async def _fill(self) -> None:
        try:
            while (output := await anext_or_none(self._outputs)) is not None:
                data, is_last = _data_of(output)
                await self._queue.put(data)
                if is_last:
                    break
            await self._queue.put(None)
        except Exception as error:  # noqa: BLE001  # fault line: around a handler's generator
            _log.exception("handler_stream_failed")
            await self._queue.put(failure(error))
        finally:
            await _close_outputs(self._outputs)

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks in the reader's thread."""
        yield self._first
        while (chunk := self._loop.run(self._queue.get())) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        """End the generator. Idempotent."""
        self._loop.run(self._end())

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

"""Turn what a handler returned or raised into answers, by DJL Serving's rules for one and for many."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, Union

from djl_python.outputs import Output, to_json
from frame.api import Part, RequestError, Response, ResponseStream

_log = logging.getLogger(__name__)
Answer: TypeAlias = Union[Response, ResponseStream, RequestError]
_BATCH_KEY = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)
_MEMORY_NAMES = {"MemoryError", "OutOfMemoryError"}
_MEMORY_TEXTS = ("CUDA error: out of memory", "No available memory for the cache blocks")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: by class *name*, so that no framework is imported, or by text."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _MEMORY_NAMES) or any(text in str(error) for text in _MEMORY_TEXTS)


def failure(error: Exception) -> RequestError:
    """Return the answer to a request whose handler raised: 507 for memory, without a body, else 424."""
    if isinstance(error, RequestError):
        return error
    if is_out_of_memory(error):
        return RequestError(507, str(error), type_name="OutOfMemoryError", body=b"")
    return _handler_failure(str(error))


def _handler_failure(text: str) -> RequestError:
    output = Output().error(text)
    return RequestError(
        output.code,
        f"{output.message}: {text}",
        type_name="HandlerError",
        properties={"content-type": "application/json"},
        body=output.content.value_at(0),
    )


def answer_one(result: object) -> Answer:
    """Return the answer to one request: None is 204, an exception fails it, a stream stays a stream."""
    if result is None:
        return Response(status=204, message="No content")
    if isinstance(result, Exception):
        if not isinstance(result, RequestError):
            _log.error("handler_failed_one_request", exc_info=result)
        return failure(result)
    if not isinstance(result, Output):
        return _handler_failure(f"Invalid output type: {type(result)}")
    if result.stream_content is not None:
        return _stream(result)
    return _with_finalizers(_response(result, _parts(result)), result.finalizers)


def answer_batch(result: object, size: int) -> list[Answer]:
    """Return the answers to a batch of `size` requests, in order.

    `result` is one `Output` with exactly one entry `batch_<i>.<key>` per request, or a list with one element
    per request, each as `answer_one` takes it. An `Output` with a code from 300 answers every request.
    """
    if isinstance(result, (list, tuple)):
        if len(result) != size:
            return [_size_mismatch(size, len(result))] * size
        return [answer_one(item) for item in result]
    if size == 1 or not isinstance(result, Output):
        answer = answer_one(result)
        return [answer] * size
    if result.stream_content is not None:
        text = f"one stream cannot answer {size} requests: return a list with one Output per request"
        return [_handler_failure(text)] * size
    return _distribute(result, size)


def follow_batch(result: object, size: int) -> list[Answer] | None:
    """Return the streams and failures of a batch on a rank that answers nobody; None when nothing is told.

    Only what rank 0 returns is an answer: here anything may be returned, in any form.
    """
    items = [result] if isinstance(result, Output) and size == 1 else result
    if not isinstance(items, (list, tuple)) or len(items) != size:
        return None
    if not all(item is None or isinstance(item, (Output, Exception)) for item in items):
        return None
    return [answer_one(item) for item in items]


def _distribute(output: Output, size: int) -> list[Answer]:
    """Give each request of a batch its entry, or all of them the whole output when it is an error."""
    if output.code >= 300:  # noqa: PLR2004  # DJL Serving's boundary between answers and errors
        return _share_finalizers([_response(output, _parts(output))] * size, output.finalizers)
    if output.content.size() != size:
        return [_size_mismatch(size, output.content.size())] * size
    parts: dict[int, Part] = {}
    for key, value in output.content:
        found = _BATCH_KEY.fullmatch(key or "")
        if found is None or int(found[1]) >= size or int(found[1]) in parts:
            error = RequestError(400, f"Unexpected batch output key: {key}", type_name="TranslateException")
            return [error] * size
        parts[int(found[1])] = Part(found[2], value)
    return _share_finalizers([_response(output, (parts[i],)) for i in range(size)], output.finalizers)


def _size_mismatch(expected: int, actual: int) -> RequestError:
    message = f"Batch output size mismatch, expected: {expected}, actual: {actual}"
    return RequestError(400, message, type_name="TranslateException")


def _parts(output: Output) -> tuple[Part, ...]:
    return tuple(Part(key or "", value) for key, value in output.content)


def _response(output: Output, parts: tuple[Part, ...]) -> Response:
    properties = {str(key): str(value) for key, value in output.properties.items() if value is not None}
    return Response(status=int(output.code), message=str(output.message), properties=properties, parts=parts)


def _stream(output: Output) -> ResponseStream:
    content = output.stream_content
    assert content is not None  # the callers have tested it

    def close() -> None:
        end = getattr(content, "close", None)
        if callable(end):
            end()
        run_finalizers(output.finalizers)

    return ResponseStream(head=_response(output, ()), chunks=_chunks(output), close=close)


def _chunks(output: Output) -> Iterator[bytes]:
    """Yield the formatted items; whatever is raised on the way is raised as a `RequestError`."""
    formatter = output.stream_formatter
    try:
        for item in output.stream_content or ():
            yield _as_bytes(item if formatter is None else formatter(item))
    except Exception as error:  # fault line: around a handler's generator
        _log.exception("handler_stream_failed")
        raise failure(error) from error


def _as_bytes(chunk: object) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode("utf-8")
    return bytes(chunk) if isinstance(chunk, (bytes, bytearray, memoryview)) else to_json(chunk)


def run_finalizers(finalizers: Sequence[Callable[[], object]]) -> None:
    """Run all finalizers; one that fails is logged and keeps none of the others from running."""
    for finalizer in finalizers:
        try:
            finalizer()
        except Exception:  # noqa: BLE001, PERF203  # fault line: around a handler's code
            _log.exception("finalizer_failed")


def _with_finalizers(response: Response, finalizers: Sequence[Callable[[], object]]) -> Answer:
    """Return a whole answer, as a stream of one chunk when something is to run once it was sent."""
    if not finalizers:
        return response
    body = _body(response)
    return ResponseStream(
        head=Response(status=response.status, message=response.message, properties=response.properties),
        chunks=iter([body]),
        close=lambda: run_finalizers(finalizers),
    )


def _body(response: Response) -> bytes:
    """Return the bytes that the server would send: entry `data`, else the first."""
    parts = sorted(response.parts, key=lambda part: part.key != "data")
    return bytes(parts[0].data) if parts else b""


def _share_finalizers(
    responses: Sequence[Response], finalizers: Sequence[Callable[[], object]]
) -> list[Answer]:
    """Return the answers of a batch; its one output's finalizers run when the last answer was sent."""
    if not finalizers:
        return list(responses)
    open_answers = len(responses)
    lock = threading.Lock()

    def finish_one() -> None:
        nonlocal open_answers
        with lock:
            open_answers -= 1
            is_last = open_answers == 0
        if is_last:
            run_finalizers(finalizers)

    return [_with_finalizers(response, [finish_one]) for response in responses]

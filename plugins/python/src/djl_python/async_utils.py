"""Build the outputs of asynchronous handlers: whole answers and chunks of a stream."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from djl_python.outputs import Output

_log = logging.getLogger(__name__)


def create_non_stream_output(
    data: str | dict[str, Any],
    properties: Mapping[str, Any] | None = None,
    error: str | None = None,
    code: int | None = None,
) -> Output:
    """Return a whole answer of type `application/json`; with `error` or `code`, an error answer."""
    return _create_output(data, True, "application/json", properties, error, code)


def create_stream_chunk_output(
    data: str | dict[str, Any],
    last_chunk: bool,  # noqa: FBT001  # DJL's signature
    error: str | None = None,
    code: int | None = None,
) -> Output:
    """Return one chunk of an answer of type `application/jsonlines`."""
    return _create_output(data, last_chunk, "application/jsonlines", None, error, code)


async def handle_streaming_response(
    response: AsyncIterator[Any],
    stream_output_formatter: Callable[..., Any],
    accumulate_chunks: bool = False,  # noqa: FBT001, FBT002  # DJL's signature
    **kwargs: Any,
) -> AsyncIterator[Output]:
    """Turn an asynchronous iterator into chunks of an answer.

    `stream_output_formatter` is called with an item (and `history=` when chunks are accumulated); it returns
    text and whether it is the last (and the new history).
    """
    history: list[Any] = []
    async for chunk in response:
        try:
            if accumulate_chunks:
                data, is_last, history = stream_output_formatter(chunk, history=history, **kwargs)
            else:
                data, is_last = stream_output_formatter(chunk, **kwargs)
        except Exception as error:  # noqa: BLE001  # fault line: around the handler's formatter
            _log.exception("stream_output_formatter_failed")
            yield create_stream_chunk_output("", True, error=str(error), code=424)
            return
        yield create_stream_chunk_output(data, is_last)
        if is_last:
            return


def _create_output(
    data: str | dict[str, Any],
    is_last: bool,  # noqa: FBT001  # positional here only
    content_type: str,
    properties: Mapping[str, Any] | None,
    error: str | None,
    code: int | None,
) -> Output:
    text = json.dumps(data, ensure_ascii=False) if isinstance(data, dict) else data
    values: dict[str, Any] = {"data": text + "\n", "last": is_last}
    if error:
        values["error"] = error
    if code:
        values["code"] = code
    output = Output().add_property("Content-Type", content_type)
    for key, value in (properties or {}).items():
        output.add_property(key, value)
    return output.add(Output.binary_encode(values))

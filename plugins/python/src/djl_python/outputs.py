"""What a handler answers with: status, properties (response headers) and content, or a stream."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from djl_python.binary_map import encode_map
from djl_python.np_util import to_nd_list, to_npz
from djl_python.pair_list import PairList

_log = logging.getLogger(__name__)


class _JsonEncoder(json.JSONEncoder):
    """JSON of numpy scalars and arrays, and of dates, without importing numpy for those who have none."""

    def default(self, o: Any) -> Any:
        """Return a JSON value for an object that the standard encoder does not know."""
        if isinstance(o, (dt.datetime, dt.date)):
            return str(o)
        np = sys.modules.get("numpy")
        if np is not None and isinstance(o, (np.generic, np.ndarray)):
            return o.tolist()
        return super().default(o)


def to_json(value: Any) -> bytes:
    """Return a value as JSON, as DJL's handlers write it: indented, non-ASCII kept, NaN refused."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=2, cls=_JsonEncoder, separators=(",", ":")
    )
    return text.encode("utf-8")


def default_stream_formatter(item: Any) -> bytes:
    """Return one item of a stream as a line of JSON: `{"outputs": item}`."""
    return (json.dumps({"outputs": item}, ensure_ascii=False, cls=_JsonEncoder) + "\n").encode("utf-8")


class Output:
    """An answer. Methods that add return the object itself, so that calls can be chained.

    To answer a batch, either add one entry per request with its `batch_index`, or (Frame's extension) return
    a list with one `Output`, exception or None per request: each then has its own status, headers or stream.
    """

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Iterable[Any] | None = None
        self.stream_formatter: Callable[[Any], Any] | None = None
        self.finalizers: list[Callable[[], object]] = []

    def __str__(self) -> str:
        content = {str(key): f"type: {type(value)}" for key, value in self.content}
        head = {"code": self.code, "message": self.message, "properties": self.properties}
        return json.dumps({**head, "content": content}, indent=2, default=str)

    def set_code(self, code: int) -> Output:
        """Set the HTTP status."""
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        """Set the text that goes with the status."""
        self.message = message
        return self

    def add_property(self, key: str, val: Any) -> Output:
        """Set a response header."""
        self.properties[key] = val
        return self

    def get_property(self, key: str) -> Any:
        """Return a response header by name in any case, or None."""
        lower = key.lower()
        return next((value for name, value in self.properties.items() if name.lower() == lower), None)

    def get_properties(self) -> dict[str, Any]:
        """Return all response headers."""
        return self.properties

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add an entry: text as UTF-8, bytes as they are, anything else as JSON.

        `batch_index` is the request of a batch, counted from 0, that this entry answers.
        """
        if key is not None and not isinstance(key, str):
            _log.warning("output_key_type key=%r expected=str", key)
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{key or 'data'}"
        if isinstance(value, str):
            self.content.add(key, value.encode("utf-8"))
        elif isinstance(value, (bytes, bytearray, memoryview)):
            self.content.add(key, bytes(value))
        else:
            self.content.add(key, to_json(value))
        return self

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add an entry as JSON: numpy values allowed, NaN and infinities refused (ValueError)."""
        return self.add(to_json(val), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add arrays in `tensor/ndlist` format. The handler sets the content type."""
        return self.add(to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add arrays in npz format. The handler sets the content type."""
        return self.add(to_npz(np_list), key, batch_index)

    def add_stream_content(
        self,
        stream_content: Iterable[Any],
        output_formatter: Callable[[Any], Any] | None = default_stream_formatter,
    ) -> Output:
        """Answer with a stream: one chunk per item.

        Args:
            stream_content: usually a generator; closed when the client goes away.
            output_formatter: item to text or bytes; by default a line `{"outputs": item}`; None sends items
                as they are.
        """
        self.stream_content = stream_content
        self.stream_formatter = output_formatter
        return self

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        """Turn this into an error answer, dropping what was added: JSON with code, message and error."""
        self.code = code
        self.message = message
        self.stream_content = None
        self.content = PairList()
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    def finalize(self, fn: Callable[..., object], *args: Any) -> Output:
        """Call `fn(*args)` after the answer was handed over, or when its client went away."""
        self.finalizers.append(lambda: fn(*args))
        return self

    @staticmethod
    def binary_encode(values: Mapping[str, Any]) -> bytearray:
        """Return a map of short strings as bytes: one chunk of an asynchronous handler's answer."""
        return bytearray(encode_map(values))

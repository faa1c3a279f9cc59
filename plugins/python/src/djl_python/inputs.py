"""What a handler is given: the properties and content of one request, or of a batch of them."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

from djl_python.np_util import from_nd_list, from_npz
from djl_python.pair_list import PairList

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH_KEY = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)


class InputProperties(dict[str, Any]):
    """A dict that keeps keys as they were written and finds them in any case, as HTTP header names are."""

    def _spelling(self, key: str) -> str | None:
        lower = key.lower()
        return next((known for known in self if known.lower() == lower), None)

    def __missing__(self, key: str) -> Any:
        spelling = self._spelling(key)
        if spelling is None:
            raise KeyError(key)
        return self[spelling]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and self._spelling(key) is not None)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key in any case, or `default`."""
        return self[key] if key in self else default  # noqa: SIM401  # this is get


class Input:
    """One request, or a batch of them whose keys carry a `batch_NNN.` prefix; use `get_batches` on a batch.

    On a batch `get_property("Content-Type")` is None: each request has its own, see `get_batches`.
    """

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = InputProperties()
        self.content = PairList()

    def __str__(self) -> str:
        sizes = ", ".join(f"{key}: {len(value)} bytes" for key, value in self.content)
        return f"properties: {dict(self.properties)}, content: {{{sizes}}}"

    def get_function_name(self) -> str | None:
        """Return the name of the handler function that this call is for."""
        return self.function_name

    def get_properties(self) -> dict[str, Any]:
        """Return all properties: request headers, then the server's additions (`model_dir`, …)."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """Return a property by name in any case, or None."""
        return self.properties.get(key)

    def get_content(self) -> PairList:
        """Return the content entries in order."""
        return self.content

    def contains_key(self, key: str) -> bool:
        """Tell whether there is a content entry of this name."""
        return self.content.contains(key)

    def is_empty(self) -> bool:
        """Tell whether there is no content: the server's first call, in which a handler loads its model."""
        return self.content.is_empty()

    def is_batch(self) -> bool:
        """Tell whether this is a batch of more than one request."""
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        """Return the number of requests, >= 1."""
        return int(self.properties.get("batch_size", "1"))

    def get_batches(self) -> list[Input]:
        """Return the requests of the batch in order, each with its own properties and content."""
        if not self.is_batch():
            return [self]
        items = [Input() for _ in range(self.get_batch_size())]
        for item in items:
            item.function_name = self.function_name

        def distribute(key: str | None, value: Any, into: Callable[[Input, str, Any], None]) -> None:
            found = _BATCH_KEY.fullmatch(key or "")
            if found and int(found[1]) < len(items):
                into(items[int(found[1])], found[2], value)

        for key, value in self.properties.items():
            distribute(key, value, lambda item, name, kept: item.properties.__setitem__(name, kept))
        for name, part in self.content:
            distribute(name, part, lambda item, name, kept: item.content.add(name, kept))
        return items

    def get_as_bytes(self, key: str | None = None) -> Any:
        """Return an entry as a bytearray; without a key `data`, else the first; None without content.

        Raises:
            KeyError: there is content, but no entry of this name.
        """
        if self.content.is_empty():
            return None
        if key:
            if not self.content.contains(key):
                raise KeyError(f"requested data for key: {key} is not found!")
            return self.content.get(key)
        return self.content.get("data") if self.content.contains("data") else self.content.value_at(0)

    def get_as_string(self, key: str | None = None) -> str:
        """Return an entry as text (UTF-8)."""
        return str(self._present(key), "utf-8")

    def get_as_json(self, key: str | None = None) -> Any:
        """Return an entry parsed as JSON."""
        return json.loads(self.get_as_string(key=key))

    def get_as_image(self, key: str | None = None) -> Any:
        """Return an entry as a Pillow image."""
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("get_as_image needs Pillow: pip install pillow") from error
        return Image.open(io.BytesIO(self._present(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """Return the arrays of an entry in `tensor/ndlist` (or npz) format."""
        return from_nd_list(self._present(key))

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """Return the arrays of an entry in npz format, in the order of the archive."""
        return from_npz(self._present(key))

    def get_as_csv(self, key: str | None = None) -> list[dict[str, str]]:
        """Return the rows of an entry in CSV format, each a dict by the names in the first row."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key=key))))

    def get_data(self, key: str | None = None) -> Any:
        """Return an entry as its `Content-Type` says: arrays, parsed JSON, text, an image, else bytes."""
        content_type = str(self.get_property("content-type") or "").split(";")[0].strip().lower()
        if content_type == "tensor/ndlist":
            return self.get_as_numpy(key)
        if content_type == "tensor/npz":
            return self.get_as_npz(key)
        if content_type == "application/json":
            return self.get_as_json(key)
        if content_type.startswith("text/"):
            return self.get_as_string(key)
        if content_type.startswith("image/"):
            return self.get_as_image(key)
        return self.get_as_bytes(key)

    def _present(self, key: str | None) -> Any:
        """Return an entry's bytes; unlike `get_as_bytes`, refuse a call without content."""
        data = self.get_as_bytes(key=key)
        if data is None:
            raise ValueError("the request has no content; test is_empty() first")
        return data

"""Decode a request by its content type and encode a prediction by `Accept`, as DJL's built-in handlers do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

_TEXT_COLUMNS = ("question", "context", "inputs")


def decode_csv(inputs: Input, require_headers: bool = True) -> Any:  # noqa: FBT001, FBT002  # DJL's signature
    """Return CSV rows as `{"inputs": [...]}`, or, without headers, as a float array.

    Raises:
        ValueError: no question, context or inputs column; or, without headers, text that is no number.
    """
    text = inputs.get_as_string()
    if require_headers:
        header = text.split("\n", 1)[0].lower()
        if not any(column in header for column in _TEXT_COLUMNS):
            names = ", ".join(_TEXT_COLUMNS)
            raise ValueError(f"the first row of the CSV must name one of the columns {names}")
        rows = list(csv.DictReader(io.StringIO(text)))
        if rows and "inputs" in rows[0]:
            return {"inputs": [row["inputs"] for row in rows]}
        return {"inputs": rows}
    import numpy as np

    table = np.array([row for row in csv.reader(io.StringIO(text)) if row])
    try:
        return table.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"the CSV must hold numbers only, in rows of one length: {error}") from error


def encode_csv(content: Iterable[Mapping[str, Any]]) -> str:
    """Return dicts as CSV with a header row."""
    rows = list(content)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def decode(
    inputs: Input,
    content_type: str | None,
    key: str | None = None,
    require_csv_headers: bool = True,  # noqa: FBT001, FBT002  # DJL's signature
) -> Any:
    """Return the payload of a request: JSON as it is, all else as `{"inputs": …}`."""
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind == "application/json":
        return inputs.get_as_json(key)
    if kind == "text/csv":
        return decode_csv(inputs, require_headers=require_csv_headers)
    if not kind:
        return inputs.get_as_json(key) if inputs.get_as_bytes(key) else {"inputs": ""}
    return {"inputs": _decode_other(inputs, kind, key)}


def _decode_other(inputs: Input, kind: str, key: str | None) -> Any:
    """Return an entry as its content type says, bytes when it says nothing that is known."""
    if kind == "text/plain":
        return [inputs.get_as_string(key)]
    if kind.startswith("image/"):
        return inputs.get_as_image(key)
    if kind == "tensor/npz":
        return inputs.get_as_npz(key)
    if kind in {"tensor/ndlist", "application/x-npy"}:
        return inputs.get_as_numpy(key)
    form = kind == "application/x-www-form-urlencoded"
    return inputs.get_as_string(key) if form else inputs.get_as_bytes(key)


def encode(outputs: Output, prediction: Any, content_type: str | None, key: str | None = None) -> None:
    """Add a prediction to `outputs` in the first format that `content_type` (an Accept header) names.

    `*/*` and nothing mean JSON; a type that is not known means `tensor/ndlist`, as in DJL Serving.
    """
    accept = (content_type or "").lower()
    if not accept or "application/json" in accept or "*/*" in accept:
        outputs.add_as_json(prediction, key).add_property("Content-Type", "application/json")
    elif "text/csv" in accept:
        outputs.add(encode_csv(prediction), key).add_property("Content-Type", "text/csv")
    elif "tensor/npz" in accept:
        outputs.add_as_npz(prediction, key).add_property("Content-Type", "tensor/npz")
    else:
        outputs.add_as_numpy(prediction, key).add_property("Content-Type", "tensor/ndlist")

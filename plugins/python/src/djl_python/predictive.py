"""The steps that the built-in handlers of classical models share: load, read, predict, write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from djl_python.custom_code import CustomCode
from djl_python.encode_decode import decode
from djl_python.inputs import Input
from djl_python.outputs import Output


class PredictiveService:
    """A handler made of four steps, each of which a model.py may replace (see `CustomCode`).

    Args:
        load: properties of the first call to the model.
        read: the decoded payload to the model's data.
        predict: model and data to a prediction.
    """

    def __init__(
        self,
        *,
        load: Callable[[Mapping[str, Any]], Any],
        read: Callable[[Any], Any],
        predict: Callable[[Any, Any], Any],
    ) -> None:
        self._load = load
        self._read = read
        self._predict = predict
        self._code = CustomCode()
        self._model: Any = None
        self._default_accept = "application/json"

    def handle(self, inputs: Input) -> Output | list[Output | Exception] | None:
        """Load the model in the first call; later answer one request, or each of a batch by itself."""
        if inputs.is_empty():
            self._initialize(inputs.get_properties())
            return None
        if not inputs.is_batch():
            return self._answer(inputs)
        return [self._answer_or_error(item) for item in inputs.get_batches()]

    def _initialize(self, properties: Mapping[str, Any]) -> None:
        self._code = properties.get("custom_code") or CustomCode()
        self._default_accept = properties.get("default_accept") or "application/json"
        load = self._code.load
        self._model = load(properties["model_dir"]) if load else self._load(properties)

    def _answer_or_error(self, inputs: Input) -> Output | Exception:
        try:
            return self._answer(inputs)
        except Exception as error:  # noqa: BLE001  # fault line: around one request of a batch
            return error

    def _answer(self, inputs: Input) -> Output:
        accept = inputs.get_property("Accept") or ""
        if accept in {"", "*/*"}:
            accept = self._default_accept
        code = self._code
        data = code.read(inputs) if code.read else self._read(_payload(inputs))
        prediction = code.predict(data, self._model) if code.predict else self._predict(self._model, data)
        if code.write:
            return _custom_output(code.write(prediction, accept), accept)
        return _default_output(prediction, accept)


def find_model_file(folder: str, suffixes: tuple[str, ...]) -> Path:
    """Return the one file of a folder with one of the suffixes; `model.*` when there are several.

    Raises:
        FileNotFoundError: there is none, or several and none named `model`.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.suffix in suffixes)
    best = found if len(found) == 1 else [path for path in found if path.stem == "model"]
    if not best:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"expected one model file ({', '.join(suffixes)}); found: {names}")
    return best[0]


def to_matrix(data: Any) -> Any:
    """Return a payload as a two-dimensional array: one row per example."""
    import numpy as np

    matrix = np.asarray(data)
    if matrix.dtype == object:
        raise ValueError("inputs: expected rows of one length")
    return matrix.reshape(1, -1) if matrix.ndim == 1 else matrix


def _payload(inputs: Input) -> Any:
    payload = decode(inputs, inputs.get_property("Content-Type"), require_csv_headers=False)
    return payload["inputs"] if isinstance(payload, dict) and "inputs" in payload else payload


def _custom_output(result: Any, accept: str) -> Output:
    """Return what model.py's own writer gave as an output; a pair is a body and its content type."""
    if isinstance(result, Output):
        return result
    body, content_type = result if isinstance(result, tuple) and len(result) == 2 else (result, accept)  # noqa: PLR2004
    return Output().add(body).add_property("Content-Type", content_type)


def _default_output(prediction: Any, accept: str) -> Output:
    if "text/csv" in accept:
        rows = _plain(prediction)
        lines = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
        return Output().add("\n".join(lines)).add_property("Content-Type", "text/csv")
    if "application/json" not in accept:
        raise ValueError(f"Unsupported Accept type: {accept}. Supported types: application/json, text/csv")
    output = Output().add_as_json({"predictions": _plain(prediction)})
    return output.add_property("Content-Type", "application/json")


def _plain(prediction: Any) -> Any:
    np = sys.modules.get("numpy")
    return prediction.tolist() if np is not None and isinstance(prediction, np.ndarray) else prediction

"""Whether two answers of a model are the same, but for the last digits of numbers."""

from __future__ import annotations

import json
import math
from typing import Any

from frame.testing.workbench import Answered


def value_of(answer: Answered) -> Any:
    """Return an answer as something to compare: JSON as Python values, tensors as arrays by name."""
    from frame.worker.functions import decode_value  # noqa: PLC0415  # numpy: only where there are tensors

    if answer.content_type.startswith("application/jsonlines"):
        return [json.loads(line) for line in answer.body.splitlines()]
    return decode_value(answer.body, answer.content_type)


def difference(expected: Any, found: Any, tolerance: float, place: str = "answer") -> str | None:
    """Return where two values differ; None where they do not."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return place
        pairs = [(f"{place}.{key}", expected[key], found[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return place
        pairs = [
            (f"{place}[{index}]", one, other)
            for index, (one, other) in enumerate(zip(expected, found, strict=True))
        ]
    elif hasattr(expected, "dtype") and hasattr(found, "dtype"):
        return None if _close_arrays(expected, found, tolerance) else place
    else:
        return None if _close(expected, found, tolerance) else place
    return next(
        (where for name, one, other in pairs if (where := difference(one, other, tolerance, name))), None
    )


def _close(expected: Any, found: Any, tolerance: float) -> bool:
    numbers = (int, float)
    if isinstance(expected, numbers) and isinstance(found, numbers):
        return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance) or expected == found
    return bool(expected == found)


def _close_arrays(expected: Any, found: Any, tolerance: float) -> bool:
    import numpy as np  # noqa: PLC0415  # only where there are tensors

    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return False
    if expected.dtype.kind in "fc":
        return bool(np.allclose(expected, found, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(expected, found))

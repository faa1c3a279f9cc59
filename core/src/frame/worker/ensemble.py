"""The built-in function `ensemble` of workflows: the mean of what several models answered."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from frame.contract.requests import RequestError


def ensemble(values: Any) -> Any:
    """Return the mean of several answers of one form: tensors, numbers, lists, or probabilities by class.

    Raises:
        RequestError: 400, they are not of one form.
    """
    if not isinstance(values, list) or not values:
        values = [values]
    if all(isinstance(value, Mapping) for value in values):
        return _mean_mapping(values)
    if all(isinstance(value, list) for value in values):
        return _mean_list(values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sum(values) / len(values)
    numpy = sys.modules.get("numpy")
    if numpy is not None and all(isinstance(value, numpy.ndarray) for value in values):
        if len({value.shape for value in values}) > 1:
            raise RequestError(400, "ensemble: the tensors have different shapes")
        return sum(value.astype(numpy.result_type(value, numpy.float32)) for value in values) / len(values)
    if all(value == values[0] for value in values):
        return values[0]
    raise RequestError(400, "ensemble: the answers are not of one form")


def _mean_mapping(values: list[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for value in values for name in value)
    are_numbers = all(isinstance(item, int | float) for value in values for item in value.values())
    if are_numbers:  # probabilities by class: who does not name one gives it none
        return {name: sum(value.get(name, 0.0) for value in values) / len(values) for name in names}
    if any(value.keys() != names.keys() for value in values):
        raise RequestError(400, "ensemble: the answers have different names")
    return {name: ensemble([value[name] for value in values]) for name in names}


def _mean_list(values: list[list[Any]]) -> list[Any]:
    if all(isinstance(item, Mapping) and "className" in item for value in values for item in value):
        return _mean_classes(values)
    if len({len(value) for value in values}) > 1:
        raise RequestError(400, "ensemble: the lists have different lengths")
    return [ensemble(list(items)) for items in zip(*values)]  # noqa: B905  # worker half: checked above


def _mean_classes(values: list[list[Any]]) -> list[dict[str, Any]]:
    """Average DJL's `[{"className": …, "probability": …}]`, the most likely first."""
    totals: dict[str, float] = {}
    for value in values:
        for item in value:
            totals[item["className"]] = totals.get(item["className"], 0.0) + float(item["probability"])
    ranked = sorted(totals.items(), key=lambda pair: -pair[1])
    return [{"className": name, "probability": total / len(values)} for name, total in ranked]

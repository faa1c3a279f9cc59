"""Serve a scikit-learn model from a skops file, or, when its author vouches for it, from a pickle."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from djl_python.predictive import PredictiveService, find_model_file, to_matrix

_SUFFIXES = {
    "skops": (".skops",),
    "joblib": (".joblib", ".jl"),
    "pickle": (".pkl", ".pickle"),
    "cloudpickle": (".pkl", ".pickle", ".cloudpkl"),
}
USES_CUSTOM_CODE = True


def _load(properties: Mapping[str, Any]) -> Any:
    model_format = properties.get("model_format") or "skops"
    if model_format not in _SUFFIXES:
        raise ValueError(f"Unsupported model format: {model_format}. Supported: {', '.join(_SUFFIXES)}")
    trusts_pickles = str(properties.get("trust_insecure_model_files", "false")).lower() == "true"
    if model_format != "skops" and not trusts_pickles:
        raise ValueError(
            f"trust_insecure_model_files must be set to 'true' to use {model_format} format "
            "(only skops is secure by default)"
        )
    path = find_model_file(properties["model_dir"], _SUFFIXES[model_format])
    if model_format == "skops":
        trusted = _trusted_types(properties)
        return _require("skops.io", "skops").load(path, trusted=trusted)
    if model_format == "joblib":
        return _require("joblib", "joblib").load(path)
    with path.open("rb") as file:
        return _require("pickle" if model_format == "pickle" else "cloudpickle", model_format).load(file)


def _trusted_types(properties: Mapping[str, Any]) -> list[str]:
    declared = str(properties.get("skops_trusted_types") or "")
    names = [name.strip() for name in declared.split(",") if name.strip()]
    if not names:
        raise ValueError(
            "option.skops_trusted_types must name the types in the skops file, for example "
            "sklearn.ensemble._forest.RandomForestClassifier,numpy.ndarray"
        )
    return names


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"models of this format need {package}: add it to requirements.txt") from error


def _predict(model: Any, data: Any) -> Any:
    return model.predict(data)


_service = PredictiveService(load=_load, read=to_matrix, predict=_predict)
handle = _service.handle

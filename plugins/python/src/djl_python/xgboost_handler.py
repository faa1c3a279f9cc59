"""Serve an XGBoost model from a json or ubj file, or, when its author vouches for it, an older one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from djl_python.predictive import PredictiveService, find_model_file, to_matrix

_SAFE = (".json", ".ubj")
_INSECURE = (".xgb", ".model", ".bst", ".deprecated")
USES_CUSTOM_CODE = True


def _xgboost() -> Any:
    try:
        return importlib.import_module("xgboost")
    except ModuleNotFoundError as error:
        raise ValueError("XGBoost models need xgboost: add it to requirements.txt") from error


def _load(properties: Mapping[str, Any]) -> Any:
    trusts_all = str(properties.get("trust_insecure_model_files", "false")).lower() == "true"
    try:
        path = find_model_file(properties["model_dir"], (*_SAFE, *_INSECURE) if trusts_all else _SAFE)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; other formats need option.trust_insecure_model_files=true") from error
    booster = _xgboost().Booster()
    booster.load_model(path)
    return booster


def _predict(model: Any, data: Any) -> Any:
    return model.predict(_xgboost().DMatrix(data))


_service = PredictiveService(load=_load, read=to_matrix, predict=_predict)
handle = _service.handle

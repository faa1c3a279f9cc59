"""Serve a model.py without a handler that defines `model_fn` and friends, or decorated functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djl_python.predictive import PredictiveService


def _load(properties: Mapping[str, Any]) -> Any:
    del properties
    raise ValueError(
        "model.py: define model_fn(model_dir), or mark a function with @init_handler, to load the model"
    )


def _read(data: Any) -> Any:
    return data


def _predict(model: Any, data: Any) -> Any:
    """Call a model that has `predict`, or that can be called."""
    return model.predict(data) if hasattr(model, "predict") else model(data)


_service = PredictiveService(load=_load, read=_read, predict=_predict)
handle = _service.handle
USES_CUSTOM_CODE = True

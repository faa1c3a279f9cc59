"""What workers run: boosters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xgboost
from frame.api import Engine, ModelSpec, Signature, TensorModel, Tensors, TensorSpec

from frame_xgboost.plugin import XGBoostOptions


class XGBoostModel(TensorModel):
    """A booster: rows of numbers to what its objective says."""

    def __init__(self, booster: xgboost.Booster, slots: int, *, margin: bool) -> None:
        self.concurrency = slots  # inplace_predict is safe for several threads
        self._booster = booster
        self._margin = margin
        columns = booster.num_features()
        sample = self._predict(np.zeros((1, columns), dtype=np.float32))
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (-1, columns)),),
            outputs=(TensorSpec("prediction", "float32", (-1, *sample.shape[1:])),),
        )

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        kind = "margin" if self._margin else "value"
        found = self._booster.inplace_predict(rows, predict_type=kind, missing=np.nan)
        return np.asarray(found, dtype=np.float32)

    def forward(self, inputs: Tensors) -> Tensors:
        """Predict one batch."""
        return {"prediction": self._predict(inputs["x"])}


class XGBoostEngine(Engine):
    """Loads boosters."""

    def load(self, spec: ModelSpec) -> XGBoostModel:
        """Load one.

        Raises:
            ValueError: there is no file, or it is no booster.
        """
        if spec.model_file is None:
            raise ValueError("there is no *.ubj, *.xgb, *.bst or model.json in the model folder")
        booster = xgboost.Booster({"nthread": self.context.threads})
        try:
            booster.load_model(Path(spec.path, spec.model_file))
        except xgboost.core.XGBoostError as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"{spec.model_file}: no booster: {first}") from error
        booster.set_param({"nthread": self.context.threads})
        options: XGBoostOptions = spec.options
        return XGBoostModel(booster, self.context.slots, margin=options.margin)

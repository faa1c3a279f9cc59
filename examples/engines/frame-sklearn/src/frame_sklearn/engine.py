"""What workers run: estimators and pipelines, loaded without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from frame.api import Engine, EngineContext, ModelSpec, Signature, TensorModel, Tensors, TensorSpec
from threadpoolctl import threadpool_limits

from frame_sklearn.plugin import SklearnOptions


class SklearnModel(TensorModel):
    """An estimator: rows of numbers to predictions and, of classifiers, probabilities."""

    def __init__(self, estimator: Any, slots: int, *, gives_probabilities: bool) -> None:
        self.concurrency = slots  # predicting changes nothing
        self._estimator = estimator
        self._gives_probabilities = gives_probabilities and hasattr(estimator, "predict_proba")
        columns = int(getattr(estimator, "n_features_in_", -1))
        sample = np.zeros((1, max(columns, 1)), dtype=np.float64)
        kind = np.asarray(estimator.predict(sample)).dtype
        outputs = [TensorSpec("prediction", "str" if kind.kind in "OU" else kind.name, None)]
        if self._gives_probabilities:
            outputs.append(TensorSpec("probabilities", "float64", (-1, len(estimator.classes_))))
        self.signature = Signature((TensorSpec("x", "float64", (-1, columns)),), tuple(outputs))

    def forward(self, inputs: Tensors) -> Tensors:
        """Predict one batch."""
        predicted = np.asarray(self._estimator.predict(inputs["x"]))
        if predicted.dtype.kind == "O":
            predicted = predicted.astype(str)
        outputs = {"prediction": predicted}
        if self._gives_probabilities:
            outputs["probabilities"] = np.asarray(self._estimator.predict_proba(inputs["x"]))
        return outputs


class SklearnEngine(Engine):
    """Loads skops files: they name the types that they have, and run no code."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._limits = threadpool_limits(context.threads)

    def load(self, spec: ModelSpec) -> SklearnModel:
        """Load a model.

        Raises:
            ValueError: there is no file, it is no skops file, or has types that are not trusted.
        """
        if spec.model_file is None:
            raise ValueError("there is no *.skops in the model folder; skops.io.dump writes one")
        options: SklearnOptions = spec.options
        path = Path(spec.path, spec.model_file)
        allowed = {name.strip() for name in options.trusted.split(",") if name.strip()}
        try:
            unknown = set(skops.io.get_untrusted_types(file=path)) - allowed
        except Exception as error:
            raise ValueError(f"{spec.model_file}: no skops file: {type(error).__name__}: {error}") from error
        if unknown:
            names = ",".join(sorted(unknown))
            raise ValueError(f"it has types that are not trusted; if they are, set option.trusted={names}")
        estimator = skops.io.load(path, trusted=sorted(allowed))
        return SklearnModel(estimator, self.context.slots, gives_probabilities=options.probabilities)

    def close(self) -> None:
        """Give the threads back."""
        self._limits.restore_original_limits()

"""The engine does what every engine must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skops.io
from frame.api import Request
from frame.testing import EngineCompliance, Workbench, WorkbenchError, json_request, tensor_request
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

RANDOM = np.random.default_rng(0)
ROWS, LABELS = RANDOM.normal(size=(60, 4)), RANDOM.integers(0, 3, 60)


class _Sklearn(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "sklearn"

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [
            json_request(ROWS[:1].tolist()),
            json_request({"inputs": {"x": ROWS[1:3].tolist()}}),
            tensor_request(x=ROWS[3:8]),
        ]


class TestClassifier(_Sklearn):
    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS)
        skops.io.dump(model, tmp_path / "model.skops")
        return tmp_path

    def test_answers_are_those_of_the_estimator(self, bench: Workbench, model_dir: Path) -> None:
        model = skops.io.load(model_dir / "model.skops")
        (answer,) = bench.ask(json_request(ROWS[:5].tolist()))
        found = json.loads(answer.body)["predictions"]
        assert found["prediction"] == model.predict(ROWS[:5]).tolist()
        assert np.allclose(found["probabilities"], model.predict_proba(ROWS[:5]))


class TestRegression(_Sklearn):
    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        skops.io.dump(LinearRegression().fit(ROWS, ROWS.sum(axis=1)), tmp_path / "sums.skops")
        return tmp_path


def test_classes_may_be_names(tmp_path: Path) -> None:
    names = np.array(["iris", "rose", "lily"])[LABELS]
    model = LogisticRegression().fit(ROWS, names)
    skops.io.dump(model, tmp_path / "model.skops")
    with Workbench(tmp_path, settings={"option.probabilities": "false"}) as bench:
        (answer,) = bench.ask(json_request(ROWS[:5].tolist()))
    assert json.loads(answer.body) == {"predictions": model.predict(ROWS[:5]).tolist()}


def test_types_that_are_not_trusted_are_refused_and_named(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.linalg.norm), LinearRegression())
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(WorkbenchError, match=r"option\.trusted=numpy"), Workbench(tmp_path, engine="sklearn"):
        pass

"""The engine does what every engine must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xgboost
from frame.api import Request
from frame.testing import EngineCompliance, Workbench, json_request, tensor_request

RANDOM = np.random.default_rng(0)
ROWS, LABELS = RANDOM.normal(size=(80, 4)).astype(np.float32), RANDOM.integers(0, 3, 80)


def train(folder: Path, name: str, objective: str, labels: np.ndarray, **more: object) -> xgboost.Booster:
    """Save a booster of a few small trees."""
    settings = {"objective": objective, "max_depth": 2, "nthread": 1, **more}
    booster = xgboost.train(settings, xgboost.DMatrix(ROWS, labels), num_boost_round=5)
    booster.save_model(folder / name)
    return booster


class _XGBoost(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "xgboost"

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [
            json_request(ROWS[:1].tolist()),
            json_request({"inputs": {"x": ROWS[1:3].tolist()}}),
            tensor_request(x=ROWS[3:8]),
        ]


class TestRegression(_XGBoost):
    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        train(tmp_path, "model.json", "reg:squarederror", ROWS.sum(axis=1))
        return tmp_path

    def test_answers_are_those_of_the_booster(self, bench: Workbench, model_dir: Path) -> None:
        booster = xgboost.Booster(model_file=str(model_dir / "model.json"))
        (answer,) = bench.ask(json_request(ROWS[:5].tolist()))
        expected = booster.predict(xgboost.DMatrix(ROWS[:5]))
        assert np.allclose(json.loads(answer.body)["predictions"], expected, atol=1e-5)


class TestClasses(_XGBoost):
    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        train(tmp_path, "classes.ubj", "multi:softprob", LABELS, num_class=3)
        return tmp_path

"""The engine does what every engine must."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from frame.api import Request
from frame.testing import EngineCompliance, Workbench, body_request, json_request


class TestChatter(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "chatter"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        (tmp_path / "toy.chatter").touch()
        return tmp_path

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [
            json_request({"prompt": "one", "max_tokens": 4}),
            json_request({"prompt": "another"}),
            body_request(b"a third", "text/plain"),
        ]

    @pytest.mark.xfail(reason="its model has no file: a toy's claim is an empty one")
    def test_a_model_that_is_broken_says_so(self, engine, model_dir, spec, tmp_path_factory) -> None:
        super().test_a_model_that_is_broken_says_so(engine, model_dir, spec, tmp_path_factory)

    def test_requests_run_together_and_leave_at_different_times(self, bench: Workbench) -> None:
        requests = [json_request({"prompt": f"{n}", "max_tokens": n}) for n in range(1, 13)]
        answers = bench.ask(*requests)
        assert [len(answer.body.split()) for answer in answers] == list(range(1, 13))

"""The engine that comes with the server does what every engine must."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from frame.api import Request
from frame.testing import EngineCompliance, body_request, json_request

pytestmark = pytest.mark.slow(180)


class _Echo(EngineCompliance):
    @pytest.fixture
    def engine(self) -> str:
        return "echo"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        (tmp_path / "anything").touch()
        return tmp_path


class TestWhole(_Echo):
    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [json_request([1.5]), json_request({"a": "b"}), body_request(b"text", "text/plain")]


class TestStreams(_Echo):
    settings: ClassVar = {"option.mode": "stream"}

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [body_request(text, "text/plain") for text in (b"one", b"one two three", b"a b " * 200)]

    @pytest.mark.xfail(reason="it takes any bytes for words")
    def test_a_malformed_request_fails_alone(self, bench, requests, alone, malformed) -> None:
        super().test_a_malformed_request_fails_alone(bench, requests, alone, malformed)


class TestSequences(TestStreams):
    settings: ClassVar = {"option.mode": "sequence", "option.max_rolling_batch_size": "2"}

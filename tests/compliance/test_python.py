"""The Python engine and DeepSpeed's do what every engine must: handlers, streams and text models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from frame.api import Request
from frame.testing import EngineCompliance, json_request

from tests import hf_models

pytestmark = pytest.mark.slow(180)

BATCHES = """
from djl_python import Input, Output


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    output = Output()
    for index, item in enumerate(inputs.get_batches()):
        value = item.get_as_json()
        output.add({"double": value["n"] * 2}, batch_index=index if inputs.is_batch() else None)
    return output
"""
STREAMS = """
from djl_python import Input, Output


def words(count):
    for number in range(count):
        yield f"word {number} of {count}\\n"


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    return Output().add_stream_content(words(inputs.get_as_json()["n"]), output_formatter=None)
"""


def make_model(folder: Path, engine: str) -> Path:
    """Save a tiny Llama for an engine that is named."""
    hf_models.make_llama(folder)
    (folder / "serving.properties").write_text(f"engine={engine}\n")
    return folder


class _Handler(EngineCompliance):
    handler: ClassVar[str]

    @pytest.fixture
    def engine(self) -> str:
        return "python"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        (tmp_path / "model.py").write_text(self.handler)
        return tmp_path

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [json_request({"n": number}, id=f"{number}") for number in (1, 2, 30)]


class TestBatches(_Handler):
    handler = BATCHES

    @pytest.mark.xfail(reason="what a handler of DJL Serving raises is the error of its whole batch")
    def test_a_malformed_request_fails_alone(self, bench, requests, alone, malformed) -> None:
        super().test_a_malformed_request_fails_alone(bench, requests, alone, malformed)


class TestStreams(_Handler):
    handler = STREAMS
    settings: ClassVar = {"batch_size": "1"}


class TestText(EngineCompliance):
    """A language model whose requests join and leave a running batch."""

    settings: ClassVar = {"batch_size": "1", "option.max_tokens": "32", "option.max_rolling_batch_size": "4"}

    @pytest.fixture
    def engine(self) -> str:
        return "python"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        return make_model(tmp_path / "llama", "Python")

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        sampled = {"max_new_tokens": 12, "do_sample": True, "seed": 7}
        return [
            json_request({"inputs": "one", "parameters": {"max_new_tokens": 8}}),
            json_request({"inputs": "another text", "parameters": {"max_new_tokens": 20}, "stream": True}),
            json_request({"inputs": "a third", "parameters": sampled}),
        ]


class TestRanks(TestText):
    """The same of DeepSpeed: a group of two ranks answers as one process."""

    settings: ClassVar = {"batch_size": "1", "option.max_tokens": "32", "option.tensor_parallel_degree": "1"}
    two_ranks: ClassVar = {"option.tensor_parallel_degree": "2", "option.launcher": "spawn"}

    @pytest.fixture
    def engine(self) -> str:
        return "deepspeed"

    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        return make_model(tmp_path / "llama", "DeepSpeed")

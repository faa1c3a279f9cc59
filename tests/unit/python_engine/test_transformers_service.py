"""A model.py that calls DJL Serving's transformers handler."""

from __future__ import annotations

import json

import pytest
from frame.api import RequestError

from tests import hf_models

SOURCE = """
from djl_python.{module} import {service}

service = {service}()

def handle(inputs):
    if not service.initialized:
        service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else service.inference(inputs)
"""
IMPORTED = "from djl_python.huggingface import handle\n"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hf_models.make_gptj(tmp_path_factory.mktemp("gptj")))


@pytest.mark.parametrize(
    "source",
    [
        SOURCE.format(module="huggingface", service="HuggingFaceService"),
        SOURCE.format(module="deepspeed", service="DeepSpeedService"),
        IMPORTED,
    ],
)
def test_a_model_py_may_call_the_built_in_handler(load, ask, json_of, weights, monkeypatch, source):
    monkeypatch.setattr("djl_python.huggingface._service.initialized", False)
    model = load(source, properties={"model_id": weights, "max_tokens": "64"})
    [alone] = model.predict([ask(json.dumps({"inputs": "x", "parameters": {"max_new_tokens": 3}}))])
    [found] = json_of(alone)
    assert found["generated_text"].startswith("x")
    answers = model.predict([ask('{"inputs": "x", "parameters": {"max_new_tokens": 3}}'), ask("{}")])
    assert json_of(answers[0]) == [found]
    assert isinstance(answers[1], RequestError)
    assert answers[1].status == 400


def test_several_ranks_are_refused(load, weights, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    source = SOURCE.format(module="deepspeed", service="DeepSpeedService")
    with pytest.raises(RequestError, match=r"leave the model\.py out"):
        load(source, properties={"model_id": weights})

"""Folders without a handler of their own: scikit-learn, SageMaker's functions, decorators, TorchServe."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys

import pytest
from frame.api import RequestError

JSON = {"Content-Type": "application/json"}
SCRIPT = """
import json, os

def model_fn(model_dir):
    assert os.path.isdir(model_dir)
    return lambda data: [2 * x for x in data]

def input_fn(body, content_type):
    assert content_type == 'application/json'
    return json.loads(body)

def predict_fn(data, model):
    return model(data)

def output_fn(prediction, accept):
    return json.dumps({'doubled': prediction}), accept
"""


def test_sagemakers_four_functions_are_a_handler(load, ask, json_of):
    [answer] = load(SCRIPT).predict([ask("[1, 2]", headers=JSON)])
    assert json_of(answer) == {"doubled": [2, 4]}
    assert answer.properties["Content-Type"] == "application/json"


def test_each_request_of_a_batch_is_answered_or_fails_alone(load, ask, json_of):
    requests = [ask("[1]", headers=JSON), ask("[", headers=JSON), ask("[3]", headers=JSON)]
    first, second, third = load(SCRIPT).predict(requests)
    assert (json_of(first), json_of(third)) == ({"doubled": [2]}, {"doubled": [6]})
    assert isinstance(second, RequestError)
    assert second.status == 424


def test_functions_that_are_left_out_have_defaults(load, ask, json_of):
    model = load("def model_fn(model_dir):\n    return sum\n")
    assert json_of(model.predict([ask('{"inputs": [1, 2]}', headers=JSON)])[0]) == {"predictions": 3}


def test_decorated_functions_replace_the_steps(load, ask, json_of):
    source = (
        "from djl_python.input_parser import init_handler, input_formatter, prediction_handler\n"
        "from djl_python.output_formatter import output_formatter\n"
        "@init_handler\ndef start(model_dir, **kwargs):\n    return 10\n"
        "@input_formatter\ndef read(inputs, **kwargs):\n    return int(inputs.get_as_string())\n"
        "@prediction_handler\ndef predict(x, model, **kwargs):\n    return x + model\n"
        "@output_formatter\ndef write(prediction):\n    return {'sum': prediction}\n"
    )
    assert json_of(load(source).predict([ask("5")])[0]) == {"sum": 15}


def test_a_script_without_a_way_to_load_is_refused(load):
    with pytest.raises(RequestError, match="define model_fn"):
        load("def predict_fn(data, model):\n    return data\n")


def test_formatters_of_a_handlers_own_file_reach_its_first_call(load, ask, body_of):
    source = (
        "from djl_python import Output\nfrom djl_python.input_parser import input_formatter\nfound = []\n"
        "@input_formatter\ndef read(inputs):\n    return 'read by the formatter'\n"
        "def handle(inputs):\n    if inputs.is_empty():\n"
        "        found.append(inputs.get_property('input_formatter'))\n"
        "        return None\n    return Output().add(found[0](inputs))\n"
    )
    assert body_of(load(source).predict([ask()])[0]) == b"read by the formatter"


MODEL_CODE = "class Doubler:\n    def predict(self, rows):\n        return rows * 2\n"


@pytest.fixture
def pickled(tmp_path):
    """Return a pickle of a model whose class is in `shapes.py` beside it."""
    code = tmp_path / "shapes.py"
    code.write_text(MODEL_CODE)
    spec = importlib.util.spec_from_file_location("shapes", code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["shapes"] = module
    try:
        return pickle.dumps(module.Doubler(), protocol=0).decode("latin-1")
    finally:
        del sys.modules["shapes"]


PICKLES = {"model_format": "pickle", "trust_insecure_model_files": "true"}


def test_a_pickled_model_is_served_when_its_author_vouches_for_it(load, ask, json_of, body_of, pickled):
    model = load(files={"model.pkl": pickled, "shapes.py": MODEL_CODE}, properties=PICKLES)
    asked = [
        ask('{"inputs": [[1, 2]]}', headers=JSON),
        ask("[1, 2]", headers={**JSON, "Accept": "*/*"}),
        ask("1,2\n3,4\n", headers={"Content-Type": "text/csv", "Accept": "text/csv"}),
        ask("[1]", headers={**JSON, "Accept": "image/png"}),
    ]
    table, row, text, refused = model.predict(asked)
    assert json_of(table) == json_of(row) == {"predictions": [[2, 4]]}
    assert body_of(text) == b"2.0,4.0\n6.0,8.0"
    assert text.properties["Content-Type"] == "text/csv"
    assert "Unsupported Accept type" in json.loads(refused.body)["error"]


def test_a_model_py_beside_a_pickle_replaces_single_steps(load, ask, json_of, pickled):
    source = (
        "from djl_python.output_formatter import output_formatter\n"
        "@output_formatter\ndef write(prediction):\n    return {'own': prediction.tolist()}\n"
    )
    files = {"model.pkl": pickled, "shapes.py": MODEL_CODE}
    for options in ({}, {"entryPoint": "djl_python.sklearn_handler"}):
        model = load(source, files=files, properties=PICKLES, **options)
        assert json_of(model.predict([ask("[[1]]", headers=JSON)])[0]) == {"own": [[2]]}
        model.close()


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"model_format": "pickle"}, "trust_insecure_model_files must be set to 'true'"),
        ({"model_format": "onnx"}, "Unsupported model format: onnx"),
        ({}, r"expected one model file \(.skops\); found: none"),
        ({**PICKLES, "model_format": "joblib"}, r"expected one model file \(.joblib, .jl\); found: none"),
    ],
)
def test_what_a_pickled_model_lacks_is_named(load, properties, said):
    with pytest.raises(RequestError, match=said):
        load(files={"model.pkl": "x"}, properties=properties)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ({"model.skops": ""}, {"properties": {"skops_trusted_types": "a.B"}}, "need skops"),
        ({"model.skops": ""}, {}, "skops_trusted_types must name"),
        ({"model.json": "{}"}, {"entryPoint": "djl_python.xgboost_handler"}, "need xgboost"),
        ({"model.bst": ""}, {"entryPoint": "djl_python.xgboost_handler"}, "trust_insecure_model_files=true"),
    ],
)
def test_a_missing_library_or_permission_is_named(load, monkeypatch, files, options, said):
    for module in ("skops.io", "xgboost"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(RequestError, match=said):
        load(files=files, **options)


MANIFEST = '{"model": {"handler": "serve.py", "modelName": "m"}, "runtime": "python"}'
FUNCTION = """
started = []

def handle(data, context):
    if data is None:
        started.append(context.system_properties["model_dir"])
        return None
    for i in range(len(data)):
        context.set_response_content_type(i, "text/x")
    return [str(row.get("data") or row.get("body")) + str(len(started)) for row in data]
"""
CLASS = """
class Handler:
    def initialize(self, context):
        self.name = context.manifest["model"]["modelName"]

    def handle(self, data, context):
        context.set_response_status(201, "Made", 0)
        ids = [context.get_request_id(i) for i in range(len(data))]
        return [{"name": self.name, "body": row["body"], "id": id} for row, id in zip(data, ids)]
"""


def test_a_torchserve_function_answers_a_batch(load, ask, body_of):
    model = load(files={"MAR-INF/MANIFEST.json": MANIFEST, "serve.py": FUNCTION})
    answers = model.predict([ask("[1]", headers=JSON), ask(data=b"")])
    assert [body_of(answer) for answer in answers] == [b"[1]1", b"bytearray(b'')1"]
    assert answers[0].properties == {"Content-Type": "text/x"}


def test_a_torchserve_class_is_initialized_and_sets_the_status(load, ask, json_of):
    model = load(files={"MAR-INF/MANIFEST.json": MANIFEST, "serve.py": CLASS})
    request = ask('{"a": 1}', headers=JSON)
    [answer] = model.predict([request])
    assert answer.status == 201
    assert json_of(answer) == {"name": "m", "body": {"a": 1}, "id": request.id}


@pytest.mark.parametrize(
    ("manifest", "source", "said"),
    [
        ('{"model": {"handler": "image_classifier"}}', "", "TorchServe's own handlers"),
        ("{}", "", "model.handler is missing"),
        (MANIFEST, "x = 1", "expected a function handle or one class"),
    ],
)
def test_a_torchserve_archive_that_cannot_run_says_why(load, manifest, source, said):
    with pytest.raises(ValueError, match=said):
        load(files={"MAR-INF/MANIFEST.json": manifest, "serve.py": source})


def test_a_torchserve_handler_must_answer_every_request(load, ask):
    source = "def handle(data, context):\n    return [b'one']\n"
    answers = load(files={"MAR-INF/MANIFEST.json": MANIFEST, "serve.py": source}).predict([ask(), ask()])
    assert "list of 2 answers" in json.loads(answers[0].body)["error"]

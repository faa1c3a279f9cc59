"""The file of a workflow: its models' settings, its functions, and what is refused."""

from __future__ import annotations

import json

import pytest
from frame.config.workflows import is_workflow_text, parse_workflow
from frame.errors import ConfigError

OUT = {"out": "in"}


def parse(content: object, file: str = "workflow.json"):
    text = content if isinstance(content, str) else json.dumps(content)
    return parse_workflow(text, file, "/store/flow")


def test_djl_servings_names_become_those_of_serving_properties():
    model = {
        "modelUrl": "{model_dir}/m", "engineName": "PyTorch", "loadOnDevices": "0;1", "queueSize": 7,
        "batchSize": 4, "maxBatchDelayMillis": 5, "maxIdleSeconds": 60, "minWorkers": 1, "maxWorkers": 2,
        "modelName": "net", "options": {"mapLocation": True}, "arguments": {"width": 224},
        "max_batch_elements": 100, "filters": {"a": "b"}, "version": "3",
    }  # fmt: skip
    read = parse({"models": {"m": model, "n": "djl://x"}, "workflow": {"out": ["m", ["n", "in"]]}})
    assert read.models["m"].url == "/store/flow/m"
    assert read.models["m"].settings == {
        "engine": "PyTorch", "load_on_devices": "0;1", "job_queue_size": "7", "batch_size": "4",
        "max_batch_delay": "5", "max_idle_time": "60", "minWorkers": "1", "maxWorkers": "2",
        "option.modelName": "net", "option.mapLocation": "true", "width": "224", "max_batch_elements": "100",
    }  # fmt: skip
    assert read.models["n"].url == "djl://x"
    assert [text.rsplit(".", 1)[-1].partition(":")[0] for text in read.warnings] == ["filters", "version"]
    assert (read.name, read.version, read.needs_functions) == (None, None, False)


def test_yaml_is_read_and_numbers_are_names():
    read = parse("name: flow\nversion: 2\nfunctions:\n  f: steps.py:go\nworkflow:\n  out: [f, in]\n", "w.yml")
    assert (read.name, read.version, read.functions) == ("flow", "2", {"f": "steps.py:go"})
    assert read.needs_functions


def test_what_is_not_needed_is_told():
    read = parse({"models": {"m": "/m", "n": "/n"}, "workflow": {"x": ["m", "in"], "out": ["n", "in"]}})
    assert len(read.warnings) == 2
    assert "workflow.x: it is not computed" in read.warnings[0]
    assert "models.m: it is loaded, but" in read.warnings[1]


@pytest.mark.parametrize("target", ["steps.py:go", "code/steps.py:go", "steps:go", "steps.go", "a.b.c"])
def test_functions_are_named_by_file_or_module(target):
    assert parse({"functions": {"f": target}, "workflow": OUT}).functions == {"f": target}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "workflow.json: no JSON"),
        ("[" * 100_000, "workflow.json: n"),
        ([], "expected an object with models"),
        ({"workflows": OUT}, "workflows: unknown, did you mean workflow?"),
        ({"models": {"m": "/m"}}, 'an entry "out"'),
        ({"models": [], "workflow": {}}, 'an entry "out"'),
        ({"models": ["m"], "workflow": OUT}, "models: expected an object"),
        ({"models": {"m": 3}, "workflow": OUT}, "models.m: expected a url, or an object with a modelUrl"),
        ({"models": {"m": {"url": "/m"}}, "workflow": OUT}, "models.m: expected a url, or"),
        ({"models": {"functions": "/m"}, "workflow": OUT}, "models.functions: no name for a model"),
        ({"models": {"id": "/m"}, "workflow": OUT}, "models.id: no name for a model"),
        ({"models": {"a:b": "/m"}, "workflow": OUT}, "models.a:b: no name for a model"),
        ({"models": {"m": {"modelUrl": "/m", "batchSize": []}}, "workflow": OUT}, "models.m.batchSize: exp"),
        ({"models": {"m": {"modelUrl": "/m", "options": 1}}, "workflow": OUT}, "models.m.options: expected"),
        ({"functions": {"f": "com.example.F()"}, "workflow": OUT}, "functions.f: expected file.py:function"),
        ({"functions": {"f": "../steps.py:go"}, "workflow": OUT}, "functions.f: expected file.py:function"),
        ({"functions": {"f": 3}, "workflow": OUT}, "functions.f: expected file.py:function"),
        ({"functions": {"id": "s.f"}, "workflow": OUT}, "functions.id: there is a built-in function"),
        ({"functions": {"m": "s.f"}, "models": {"m": "/m"}, "workflow": OUT}, "a model and of a function"),
        ({"name": "a:b", "workflow": OUT}, "name: 'a:b'"),
        ({"version": "default", "workflow": OUT}, "version: 'default'"),
        ({"configs": {"adapters": {"a": {}}}, "workflow": OUT}, "adapters are not supported"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(content, problem):
    with pytest.raises(ConfigError) as refused:
        parse(content)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    "text", ["a: [", "workflow: !!python/object/apply:os.system [id]", "a: &a [*a, *a]", "- 1", "", "\x00"]
)
def test_hostile_yaml_is_refused(text):
    with pytest.raises(ConfigError, match=r"^workflow\.yml: "):
        parse(text, "workflow.yml")


def test_yaml_that_repeats_itself_ends():
    lines = ["x0: &x0 [pre, in]"] + [f"x{n}: &x{n} [pre, *x{n - 1}, *x{n - 1}]" for n in range(1, 18)]
    text = "functions: {pre: s.f}\nworkflow:\n  " + "\n  ".join(lines) + "\n  out: x0\n"
    with pytest.raises(ConfigError, match="more than"):
        parse(text, "workflow.yml")


def test_other_json_is_no_workflow():
    assert is_workflow_text('{"workflow": {}}')
    assert not is_workflow_text('{"learner": {}}')
    assert not is_workflow_text("[1]")
    assert not is_workflow_text("{")

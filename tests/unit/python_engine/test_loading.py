"""From a folder to a handler: entry points, the first call, and what is said when there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from frame.api import EngineContext, ModelSpec, RequestError
from frame_python.engine import PythonEngine
from frame_python.entry_point import EntryPoint, resolve_entry_point
from frame_python.options import PythonOptions

HEAD = "from djl_python import Input, Output\n"
NAMED = HEAD + "def handle(inputs):\n    return Output().add(__name__)\n"


def resolve(files=(), *, name="m", declared=None, environ=None, model_id=None):
    return resolve_entry_point(
        name=name, declared=declared, environ=environ or {}, files=list(files), model_id=model_id
    )


def test_entry_points_are_looked_for_in_djls_order():
    files = ["MAR-INF/MANIFEST.json", "m.py", "model.py", "model.skops", "sub/model.py"]
    assert resolve(files, declared="a.py", environ={"DJL_ENTRY_POINT": "b.py"}) == EntryPoint("file", "a.py")
    assert resolve(files, environ={"DJL_ENTRY_POINT": "pkg.mod"}) == EntryPoint("module", "pkg.mod")
    assert resolve(files).kind == "torchserve"
    assert resolve(files[1:]) == EntryPoint("file", "m.py")
    assert resolve(files[2:]) == EntryPoint("file", "model.py")
    assert resolve(files[3:]) == EntryPoint("module", "djl_python.sklearn_handler")
    with pytest.raises(ValueError, match=r"add a model\.py"):
        resolve(files[4:])


def test_a_transformers_model_without_a_handler_has_the_built_in_one():
    assert resolve(["config.json"]).kind == "built_in"
    assert resolve(["tiny.gguf"]).kind == "built_in"
    assert resolve([], model_id="/models/gpt").kind == "built_in"
    assert resolve(["model.py", "config.json"], model_id="/models/gpt").kind == "file"
    assert resolve(["model.py"], declared="djl_python.deepspeed").kind == "built_in"
    with pytest.raises(ValueError, match="no entry point"):
        resolve(["sub/config.json"])


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("https://h/x.py", "not downloaded"),
        ("djl_python.lmi_vllm.x", "model"),
    ],
)
def test_entry_points_of_others_are_refused_with_a_remedy(declared, said):
    with pytest.raises(ValueError, match=said):
        resolve(declared=declared)


def test_the_first_call_is_empty_and_carries_options_and_the_servers_properties(load, ask, json_of):
    source = (
        HEAD + "first = {}\ndef handle(inputs):\n    if inputs.is_empty():\n"
        "        first.update(inputs.get_properties())\n"
        "        return None\n    return Output().add(first)\n"
    )
    properties = {"colour": "red", "tensor_parallel_degree": "max"}
    model = load(source, properties=properties, tensor_parallel_degree="max", devices=("gpu1", "gpu2"))
    first = json_of(model.predict([ask()])[0])
    assert first == {
        "colour": "red",
        "tensor_parallel_degree": "2",
        "pipeline_parallel_degree": "1",
        "cluster_size": "1",
        "device_id": "1",
        "handler": "handle",
        "model_dir": str(Path.cwd()),
    }


def test_requests_carry_their_headers_and_the_servers_properties(load, ask, json_of):
    source = HEAD + "def handle(inputs):\n    return Output().add(dict(inputs.get_properties()))\n"
    request = ask(headers={"Content-Type": "text/plain"})
    seen = json_of(load(source).predict([request])[0])
    assert (seen["Content-Type"], seen["device_id"], seen["requestId"]) == ("text/plain", "-1", request.id)
    assert "tensor_parallel_degree" not in seen


def test_the_model_folder_is_current_and_importable_until_the_model_is_closed(load, ask, body_of):
    before = Path.cwd()
    source = (
        "from pathlib import Path\nimport beside\n" + HEAD + "text = Path('data.txt').read_text()\n"
        "def handle(inputs):\n    return Output().add(text + beside.more)\n"
    )
    model = load(source, files={"data.txt": "from file, ", "beside.py": "more = 'from module'\n"})
    assert body_of(model.predict([ask()])[0]) == b"from file, from module"
    folder = str(Path.cwd())
    model.close()
    model.close()
    assert Path.cwd() == before
    assert folder not in sys.path
    assert "beside" not in sys.modules


def test_the_module_is_executed_once(load, tmp_path, ask, json_of):
    source = (
        "from pathlib import Path\nlog = Path('../runs.txt')\n"
        "log.write_text((log.read_text() if log.exists() else '') + 'run ')\n"
        "from djl_python.input_parser import input_formatter\n@input_formatter\ndef read(x):\n    return x\n"
        + NAMED
    )
    load(source)
    assert (tmp_path / "runs.txt").read_text() == "run "


@pytest.mark.parametrize(
    ("files", "options", "name", "module"),
    [
        ({"m.py": NAMED, "model.py": "raise SystemError"}, {}, "m", "m"),
        ({"code/serve.py": NAMED}, {"entryPoint": "code/serve.py"}, "m", "serve"),
        ({"serve.py": NAMED}, {"entryPoint": "serve"}, "m", "serve"),
        ({"pkg/__init__.py": "", "pkg/serve.py": NAMED}, {"entryPoint": "pkg.serve"}, "m", "pkg.serve"),
        ({"json.py": NAMED}, {}, "json", "frame_model_json"),
        ({"a-b.py": NAMED}, {}, "a-b", "frame_model_a_b"),
    ],
)
def test_every_kind_of_entry_point_runs(load, ask, body_of, files, options, name, module):
    model = load(files=files, name=name, **options)
    assert body_of(model.predict([ask()])[0]) == module.encode()


def test_an_absolute_entry_point_runs(load, ask, body_of, tmp_path):
    outside = tmp_path / "elsewhere.py"
    outside.write_text(NAMED)
    assert body_of(load(entryPoint=str(outside)).predict([ask()])[0]) == b"elsewhere"


def test_another_function_can_be_the_handler(load, ask, body_of):
    source = HEAD + "def answer(inputs):\n    return Output().add(inputs.get_function_name())\n"
    assert body_of(load(source, handler="answer").predict([ask()])[0]) == b"answer"


def test_classes_of_the_handler_can_be_pickled(load, ask, body_of):
    source = HEAD + "import pickle\nclass A:\n    x = 'kept'\ndef handle(inputs):\n"
    source += "    return Output().add(pickle.loads(pickle.dumps(A())).x)\n"
    assert body_of(load(source).predict([ask()])[0]) == b"kept"


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("def other(x): pass\n", {}, "no function 'handle'; it has: other"),
        ("x = 1\n", {}, "it has no functions"),
        (NAMED, {"entryPoint": "absent.py"}, r"absent\.py is not a file"),
        (NAMED, {"entryPoint": "absent.module"}, "neither a module"),
        (NAMED, {"reset": "absent"}, "option.reset=absent"),
    ],
)
def test_what_cannot_be_called_is_named(load, source, options, said):
    with pytest.raises(ValueError, match=said):
        load(source, **options)


def test_a_missing_package_is_reported_by_its_own_name(load):
    with pytest.raises(ModuleNotFoundError, match="absent_package"):
        load("import absent_package\n")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            "return Output().error('no weights')",
            500,
            "Failed to initialize model: invoke handler failure: .*no weights",
        ),
        ("return Output(507, 'full')", 507, "OOM"),
        ("raise MemoryError('full')", 507, "OOM: full"),
        ("raise ValueError('no weights')", 500, "Failed to initialize model: ValueError: no weights"),
        ("return 7", 500, "Failed to initialize model: .*Invalid output type"),
    ],
)
def test_a_first_call_that_fails_fails_the_load_and_leaves_nothing(load, body, status, said):
    before, path = Path.cwd(), list(sys.path)
    with pytest.raises(RequestError, match=f"(?s){said}") as caught:
        load(f"{HEAD}def handle(inputs):\n    {body}\n")
    assert caught.value.status == status
    assert (Path.cwd(), sys.path) == (before, path)
    assert "model" not in sys.modules


@pytest.mark.parametrize("body", ["return None", "return Output()", "return [Output()]"])
def test_a_first_call_may_answer_anything_good(load, body):
    assert load(f"{HEAD}def handle(inputs):\n    {body}\n").concurrency == 1


def test_environment_variables_of_djl_are_read(load, ask, body_of, monkeypatch):
    monkeypatch.setenv("DJL_ENTRY_POINT", "serve.py")
    monkeypatch.setenv("TENSOR_PARALLEL_DEGREE", "4")
    source = (
        HEAD + "def handle(inputs):\n    return Output().add(inputs.get_property('Tensor_Parallel_Degree'))\n"
    )
    assert body_of(load(files={"serve.py": source}).predict([ask()])[0]) == b"4"


BLOG = '''
from djl_python import Input, Output
import os

predictor = None


class Generator:
    """Stands where the blog's handler has a transformers pipeline."""

    def __init__(self, ranks, local_rank):
        self.ranks, self.local_rank = ranks, local_rank

    def __call__(self, text, do_sample, max_new_tokens):
        return [{"generated_text": f"{text} ... {max_new_tokens} {self.ranks} {self.local_rank}"}]


def get_model():
    return Generator(int(os.getenv("TENSOR_PARALLEL_DEGREE", "1")), int(os.getenv("LOCAL_RANK", "0")))


def handle(inputs: Input) -> None:
    global predictor
    if not predictor:
        predictor = get_model()

    if inputs.is_empty():
        # Model server makes an empty call to warmup the model on startup
        return None

    data = inputs.get_as_string()
    result = predictor(data, do_sample=True, max_new_tokens=256)
    return Output().add(result)
'''


def test_a_handler_of_the_shape_of_the_gpt_j_article_runs(load, ask, json_of):
    [answer] = load(BLOG).predict([ask("Amazon.com is")])
    assert json_of(answer) == [{"generated_text": "Amazon.com is ... 256 1 0"}]


def test_a_file_that_is_not_python_is_refused(tmp_path):
    (tmp_path / "model.py").mkdir()
    spec = ModelSpec(name="m", version=None, path=str(tmp_path), model_file=None,
                     options=PythonOptions(entryPoint="model.py"), properties={})  # fmt: skip
    with pytest.raises(ValueError, match=r"model\.py is not a file"):
        PythonEngine(EngineContext(devices=("cpu",))).load(spec)
    assert os.getcwd() != str(tmp_path)  # noqa: PTH109  # as the system sees it

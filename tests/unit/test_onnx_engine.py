"""The ONNX engine on models made here, compared with ONNX Runtime run directly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from frame.api import (
    EngineContext,
    FileEntry,
    FolderListing,
    ModelSpec,
    Part,
    Properties,
    Request,
    Signature,
    TensorSpec,
)
from frame.contract.options import parse_options
from frame.worker.codecs import ndlist
from frame_onnx import engine as onnx_engine
from frame_onnx.engine import OnnxEngine, provider_list
from frame_onnx.options import OnnxOptions
from frame_onnx.plugin import frame_engines
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def write(path, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        path / "model.onnx",
    )
    return path


def linear(path, rows="batch"):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return write(path, [node], [("x", FLOAT, [rows, 4])], [("y", FLOAT, [rows, 3])], [("w", WEIGHTS)])


def embedding(path):
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    return write(
        path, [node], [("ids", INT64, ["n", "s"])], [("y", FLOAT, ["n", "s", 2])], [("table", table)]
    )


def load(path, *, slots=1, devices=("cpu",), threads=1, model_file="model.onnx", **options):
    engine = OnnxEngine(EngineContext(devices=devices, slots=slots, threads=threads))
    typed = parse_options(OnnxOptions, options)
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(path),
        model_file=model_file,
        options=typed,
        properties=options,
        batch_size=8,
    )
    return engine.load(spec)


def request(data, content_type="application/json"):
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Request(id="r", properties=Properties({"Content-Type": content_type}), parts=(Part("data", body),))


def direct(path, **inputs):
    return ort.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )


def predictions(response):
    assert response.status == 200, response
    return json.loads(response.parts[0].data)["predictions"]


def test_a_folder_with_an_onnx_file_is_claimed_and_another_is_not():
    (spec,) = frame_engines()
    assert (
        spec.detect(spec, FolderListing(name="m", files=(FileEntry("m.onnx", 1),), properties={})).model_file
        == "m.onnx"
    )
    assert spec.detect(spec, FolderListing(name="m", files=(FileEntry("m.pt", 1),), properties={})) is None


def test_names_dtypes_and_shapes_are_read_from_the_file(tmp_path):
    model = load(linear(tmp_path))
    assert model.signature == Signature(
        (TensorSpec("x", "float32", (-1, 4)),), (TensorSpec("y", "float32", (-1, 3)),)
    )


def test_a_batch_gives_what_onnxruntime_gives_for_each_request(tmp_path):
    model = load(linear(tmp_path))
    model.warm_up()
    rows = np.random.default_rng(1).random((6, 4), dtype=np.float32)
    requests = [
        request({"inputs": rows[:2].tolist()}),
        request(ndlist.dumps([("x", rows[2:5])]), "tensor/ndlist"),
        request(rows[5].tolist()),
    ]
    first, second, third = model.predict(requests)
    (expected,) = direct(tmp_path, x=rows)
    np.testing.assert_allclose(predictions(first), expected[:2], rtol=1e-6)
    np.testing.assert_allclose(ndlist.loads(second.parts[0].data)[0][1], expected[2:5], rtol=1e-6)
    np.testing.assert_allclose(predictions(third), expected[5], rtol=1e-6)


def test_two_inputs_a_scalar_and_two_outputs_go_by_name(tmp_path):
    nodes = [
        helper.make_node("Mul", ["a", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["sum"]),
    ]
    inputs = [("a", FLOAT, ["n", 2]), ("b", FLOAT, ["n", 2]), ("factor", FLOAT, [])]
    model = load(write(tmp_path, nodes, inputs, [("sum", FLOAT, ["n", 2]), ("scaled", FLOAT, ["n", 2])]))
    assert [spec.shape for spec in model.signature.inputs] == [(-1, 2), (-1, 2), ()]
    body = {"inputs": {"factor": 3, "b": [[1, 1]], "a": [[1, 2]]}}
    (response,) = model.predict([request(body)])
    assert predictions(response) == {"sum": [[4, 7]], "scaled": [[3, 6]]}


def test_text_goes_in_and_out(tmp_path):
    node = helper.make_node("Identity", ["x"], ["y"])
    model = load(write(tmp_path, [node], [("x", STRING, ["n"])], [("y", STRING, ["n"])]))
    model.warm_up()
    first, second = model.predict([request({"instances": ["a", "é"]}), request({"instances": ["c"]})])
    assert (predictions(first), predictions(second)) == (["a", "é"], ["c"])


def test_a_model_of_a_fixed_batch_runs_each_request_alone(tmp_path):
    model = load(linear(tmp_path, rows=1))
    first, second, third = model.predict(
        [request([[1, 0, 0, 0]]), request([[1, 2, 3, 4], [1, 2, 3, 4]]), request([0] * 4)]
    )
    np.testing.assert_allclose(predictions(first), WEIGHTS[:1], rtol=1e-6)
    assert second.message == "input x: expected float32 [1, 4], got [2, 4]"
    assert predictions(third) == [0, 0, 0]


def test_data_that_the_model_refuses_is_400_for_that_request_alone(tmp_path):
    model = load(embedding(tmp_path))
    good, bad = model.predict([request([[1, 2]]), request([[1, 99]])])
    assert predictions(good) == [[[2, 3], [4, 5]]]
    assert bad.status == 400
    assert "idx=99 must be within the inclusive range" in bad.message
    assert "Gather" not in bad.message


def test_a_failure_inside_the_model_is_424_without_internals(tmp_path):
    node = helper.make_node("Add", ["a", "b"], ["y"])
    inputs = [("a", FLOAT, ["n", "s"]), ("b", FLOAT, ["n", "t"])]
    model = load(write(tmp_path, [node], inputs, [("y", FLOAT, ["n", "u"])]))
    (response,) = model.predict([request({"inputs": {"a": [[1, 2]], "b": [[1, 2, 3]]}})])
    assert response.status == 424
    assert "onnx" not in response.message


def test_slots_share_one_session(tmp_path):
    model = load(linear(tmp_path), slots=4)
    assert model.concurrency == 4
    found = {}

    def run(index):
        found[index] = [predictions(model.predict([request([[index, 0, 0, 0]])])[0]) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for index, results in found.items():
        np.testing.assert_allclose(results, [[index * WEIGHTS[0]]] * 20, rtol=1e-6)
    assert len(found) == 4


def test_options_reach_the_session_in_both_spellings(tmp_path):
    spec = ModelSpec(name="m", version=None, path=str(tmp_path), model_file=None, options=None, properties={})
    given = {
        "intraOpNumThreads": "3",
        "inter_op_num_threads": "2",
        "executionMode": "PARALLEL",
        "optLevel": "BASIC_OPT",
        "memoryPatternOptimization": "false",
        "cpuArenaAllocator": "false",
    }
    settings = onnx_engine.session_options(parse_options(OnnxOptions, given), spec, 1)
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (3, 2)
    assert settings.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert settings.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert not settings.enable_mem_pattern
    assert not settings.enable_cpu_mem_arena
    assert onnx_engine.session_options(OnnxOptions(), spec, 5).intra_op_num_threads == 5


def test_a_closed_model_may_be_closed_again(tmp_path):
    model = load(linear(tmp_path))
    model.close()
    model.close()


def test_external_weights_are_found_beside_the_file(tmp_path):
    proto = onnx.load(linear(tmp_path) / "model.onnx")
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").stat().st_size >= WEIGHTS.nbytes
    (response,) = load(tmp_path).predict([request([[0, 1, 0, 0]])])
    np.testing.assert_allclose(predictions(response), WEIGHTS[1:2], rtol=1e-6)


def broken(path):
    (path / "model.onnx").write_bytes(b"not a model")
    return path


def sequence_output(path):
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        path / "model.onnx",
    )
    return path


def half_brain(path):
    kind = TensorProto.BFLOAT16
    return write(
        path, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, ["n"])], [("y", kind, ["n"])]
    )


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (linear, {"model_file": None}, "model m: its folder has no .onnx file"),
        (linear, {"model_file": "other.onnx"}, "other.onnx: onnxruntime .* cannot load it"),
        (broken, {}, "model.onnx: onnxruntime .* cannot load it"),
        (sequence_output, {}, "y has the type seq.*supported are tensors of float"),
        (half_brain, {}, "x has the type tensor.bfloat16.; numpy has no bfloat16: cast it to float32"),
        (
            linear,
            {"customOpLibrary": "ops.so"},
            "option.customOpLibrary: ops.so is not in the model's folder",
        ),
        (
            linear,
            {"ortDevice": "CoreML"},
            "does not have CoreMLExecutionProvider .it has .*CPUExecutionProvider",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path, make, settings, words):
    with pytest.raises(ValueError, match=words):
        load(make(tmp_path), **settings)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA here"
)
def test_a_gpu_without_the_gpu_build_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"pip install frame-onnx\[gpu\]"):
        load(linear(tmp_path), devices=("gpu0",))


def test_the_plugin_imports_no_framework():
    code = (
        "import sys, frame_onnx.plugin as p; p.frame_engines();"
        "sys.exit(bool({'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0


def test_tensorrt_of_onnx_runtime_that_is_not_there_says_what_to_install(tmp_path):
    with pytest.raises(ValueError, match=r"pip install frame-onnx\[gpu\] tensorrt"):
        load(linear(tmp_path), ortDevice="TensorRT")


def test_tensorrt_gets_its_settings_and_cuda_what_it_lacks(monkeypatch):
    has = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: has)
    options = OnnxOptions(tensorrtFp16=True, tensorrtCache="/var/cache/plans")
    asked = {
        "device_id": "1",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/var/cache/plans",
    }
    assert provider_list("TensorRT", "gpu1", options) == [
        ("TensorrtExecutionProvider", asked),
        ("CUDAExecutionProvider", {"device_id": "1"}),
        "CPUExecutionProvider",
    ]
    assert provider_list("TensorRT", "gpu1", OnnxOptions())[0] == (has[0], {"device_id": "1"})

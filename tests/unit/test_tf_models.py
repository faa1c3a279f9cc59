"""The TensorFlow engine on SavedModels made here, against TensorFlow run directly."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from frame.api import (
    EngineContext,
    FileEntry,
    FolderListing,
    ModelSpec,
    Part,
    Properties,
    Request,
    RequestError,
)
from frame_tf.engine import TensorFlowEngine
from frame_tf.options import TensorFlowOptions
from frame_tf.plugin import frame_engines
from tensorflow.core.protobuf import saved_model_pb2

[SPEC] = frame_engines()


def load(folder, model_file="saved_model.pb", *, slots=4, **options):
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file=model_file,
        options=TensorFlowOptions(**options),
        properties={},
    )
    return TensorFlowEngine(EngineContext(devices=("cpu",), slots=slots)).load(spec)


def shapes(specs):
    return {spec.name: (spec.dtype, spec.shape) for spec in specs}


class Affine(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32, name="x"),
            tf.TensorSpec([], tf.float32, name="scale"),
            tf.TensorSpec([None], tf.string, name="label"),
        ]
    )
    def __call__(self, x, scale, label):
        return {"y": x @ self.weights * scale, "label": tf.strings.upper(label)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])
    def pick(self, index):
        return {"row": tf.gather(self.weights, index)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.bfloat16, name="x")])
    def halve(self, x):
        return {"half": x / 2}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="any")])
    def double(self, any):  # noqa: A002
        return {"twice": any * 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def add(self, x):
        return {"sum": tf.reduce_sum(self.weights.assign_add(tf.ones([3, 2]))) + x}

    @tf.function(input_signature=[])
    def nothing(self):
        return {"zero": tf.zeros([1])}


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("affine")
    model = Affine()
    signatures = {"serving_default": model.__call__}
    signatures |= {name: getattr(model, name) for name in ("pick", "halve", "double", "add", "nothing")}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return folder


def listing(*paths):
    return FolderListing(name="m", files=tuple(FileEntry(p, 1) for p in paths), properties={})


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["saved_model.pb", "1/saved_model.pb"], "saved_model.pb"),
        (["2/saved_model.pb", "10/saved_model.pb"], "10/saved_model.pb"),
        (["a/saved_model.pb", "m/saved_model.pb", "7/saved_model.pb"], "m/saved_model.pb"),
        (["export/saved_model.pb"], "export/saved_model.pb"),
    ],
)
def test_the_saved_model_is_found_at_the_top_or_one_folder_down(paths, chosen):
    claim = SPEC.detect(SPEC, listing(*paths))
    assert (claim.strength, claim.model_file) == (50, chosen)


def test_a_folder_without_a_saved_model_is_not_claimed():
    assert SPEC.detect(SPEC, listing("model.keras", "weights.h5")) is None


def test_signature_has_names_dtypes_and_free_sizes(affine):
    model = load(affine)
    assert shapes(model.signature.inputs) == {
        "x": ("float32", (-1, 3)),
        "scale": ("float32", ()),
        "label": ("bytes", (-1,)),
    }
    assert shapes(model.signature.outputs) == {"y": ("float32", (-1, 2)), "label": ("bytes", (-1,))}
    assert model.concurrency == 4
    assert load(affine, signature_def="double").signature.inputs[0].shape is None


def test_forward_answers_as_tensorflow_does(affine):
    x = np.random.default_rng(0).random((5, 3), np.float32)
    label = np.array([b"a", b"b", b"c", b"d", b"\xff"], object)
    answer = load(affine).forward({"x": x, "scale": np.array(2, np.float32), "label": label})
    direct = tf.saved_model.load(str(affine))(tf.constant(x), tf.constant(2.0), tf.constant(label))
    assert list(answer) == ["label", "y"]
    np.testing.assert_array_equal(answer["y"], direct["y"].numpy())
    assert answer["label"].tolist() == [b"A", b"B", b"C", b"D", b"\xff"]


def test_requests_of_a_batch_are_answered_alone_from_json(affine):
    def request(number, x):
        body = json.dumps({"inputs": {"x": x, "scale": 1.0, "label": ["é"] * len(x)}}).encode()
        properties = Properties({"content-type": "application/json"})
        return Request(id=str(number), properties=properties, parts=(Part("data", body),))

    first, wrong, last = load(affine).predict(
        [request(0, [[1, 0, 0]]), request(1, [[1, 0]]), request(2, [[0, 1, 0], [0, 0, 1]])]
    )
    assert json.loads(bytes(first.parts[0].data))["predictions"] == {"label": ["é"], "y": [[0, 1]]}
    assert wrong.status == 400
    assert "input x: expected float32 [-1, 3]" in wrong.message
    assert json.loads(bytes(last.parts[0].data))["predictions"]["y"] == [[2, 3], [4, 5]]


def test_bfloat16_is_served_as_float32(affine):
    model = load(affine, signature_def="halve")
    assert shapes(model.signature.inputs) == {"x": ("float32", (-1, 3))}
    half = model.forward({"x": np.ones((2, 3), np.float32)})["half"]
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, np.full((2, 3), 0.5))


def test_bad_values_are_the_clients_fault_and_show_no_internals(affine):
    with pytest.raises(RequestError) as caught:
        load(affine, signature_def="pick").forward({"index": np.array([7], np.int32)})
    assert caught.value.status == 400
    assert caught.value.message == "the model cannot take index int32[1]: indices[0] = 7 is not in [0, 3)"


def test_a_signature_that_assigns_variables_is_not_shared_and_not_warmed_up(affine, caplog):
    with caplog.at_level("WARNING", "frame_tf"):
        model = load(affine, signature_def="add")
    assert "model_keeps_state" in caplog.text
    assert model.concurrency == 1
    model.warm_up()
    assert model.forward({"x": np.zeros(1, np.float32)})["sum"].tolist() == [15 + 6]


def test_warm_up_runs_every_shared_signature(affine):
    for name in ("serving_default", "pick", "halve", "double"):
        load(affine, signature_def=name).warm_up()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"signature_def": "classify"},
            r"no signature 'classify'.*present: add, double, halve, nothing, pick, serving_default; set opt",
        ),
        ({"signature_def": "nothing"}, r"the signature has no inputs"),
        ({"tags": "train"}, r"option\.tags: no graph is tagged train; the SavedModel has serve"),
    ],
)
def test_options_that_do_not_fit_say_what_exists(affine, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(affine, **options)


def damage_nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_variables(folder):
    (folder / "variables" / "variables.index").unlink()


def damage_graph(folder):
    (folder / "saved_model.pb").write_bytes(b"not a graph")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_nothing, r"model m: no saved_model\.pb in .*\.keras or \.h5 file becomes a SavedModel"),
        (damage_variables, r"files of variables/ are missing; copy the whole folder"),
        (damage_graph, r"saved_model\.pb cannot be read; copy the folder again"),
    ],
)
def test_a_damaged_folder_says_what_to_do(affine, tmp_path, damage, complaint):
    copy = tmp_path / "copy"
    shutil.copytree(affine, copy)
    damage(copy)
    with pytest.raises(ValueError, match=complaint):
        load(copy)


def test_a_saved_model_without_signatures_says_how_to_save_it(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no signature 'serving_default'.*present: none; save it with Keras"
    ):
        load(tmp_path)


def test_an_optimizer_of_keras_2_inside_does_not_stop_the_load(affine, tmp_path):
    shutil.copytree(affine, tmp_path / "old")
    file = tmp_path / "old" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = model.meta_graphs[0].object_graph_def
    variable = next(i for i, node in enumerate(graph.nodes) if node.WhichOneof("kind") == "variable")
    graph.nodes.add().CopyFrom(graph.nodes[variable])
    optimizer = graph.nodes.add()
    optimizer.user_object.identifier = "an_optimizer_nobody_registered"
    optimizer.slot_variables.add(
        original_variable_node_id=variable, slot_name="momentum", slot_variable_node_id=len(graph.nodes) - 2
    )
    graph.nodes[0].children.add(node_id=len(graph.nodes) - 1, local_name="optimizer")
    file.write_bytes(model.SerializeToString())
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(file.parent))
    old = load(tmp_path, "old/saved_model.pb")
    inputs = {
        "x": np.ones((2, 3), np.float32),
        "scale": np.array(1, np.float32),
        "label": np.array([b"a", b"b"], object),
    }
    np.testing.assert_array_equal(old.forward(inputs)["y"], load(affine).forward(inputs)["y"])
    assert old.concurrency == 4
    assert shapes(old.signature.inputs) == shapes(load(affine).signature.inputs)


def test_two_threads_share_a_model_without_mixing_answers(affine):
    engine = TensorFlowEngine(EngineContext(devices=("cpu",), slots=2))
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(affine),
        model_file="saved_model.pb",
        options=TensorFlowOptions(signature_def="double"),
        properties={},
    )
    model = engine.load(spec)
    wrong = []

    def slot(value):
        x = np.full((4, 16), value, np.float32)
        with engine.slot_context():
            answers = [model.forward({"any": x})["twice"] for _ in range(50)]
        wrong.extend(value for answer in answers if not np.array_equal(answer, 2 * x))

    threads = [threading.Thread(target=slot, args=(value,)) for value in (1.0, -1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_closed_model_refuses_calls_and_closes_again(affine):
    model = load(affine)
    model.close()
    model.close()
    with pytest.raises(RequestError, match="closed"):
        model.forward({})


def test_a_missing_gpu_is_explained():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"gpu0: .* sees no GPU.*load_on_devices=cpu"):
        TensorFlowEngine(EngineContext(devices=("gpu0",)))
    with pytest.raises(ValueError, match=r"runs on one device, not gpu0\+gpu1"):
        TensorFlowEngine(EngineContext(devices=("gpu0", "gpu1")))

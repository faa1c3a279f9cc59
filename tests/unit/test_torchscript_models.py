"""The TorchScript engine on models made here, against torch run directly."""

from __future__ import annotations

import json
import threading
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from frame.api import EngineContext, ModelSpec, Part, Properties, Request, RequestError, TensorSpec
from frame_torchscript.engine import TorchScriptEngine
from frame_torchscript.options import TorchScriptOptions


def load(folder, name="model.pt", *, slots=4, **options):
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file=name,
        options=TorchScriptOptions(**options),
        properties={},
    )
    return TorchScriptEngine(EngineContext(devices=("cpu",), slots=slots)).load(spec)


def shapes(specs):
    return {spec.name: (spec.dtype, spec.shape) for spec in specs}


def ask(number, inputs):
    body = json.dumps({"inputs": inputs}).encode()
    return Request(
        id=str(number),
        properties=Properties({"content-type": "application/json"}),
        parts=(Part("data", body),),
    )


def told(response):
    return json.loads(bytes(response.parts[0].data))["predictions"]


class Encoder(torch.nn.Module):
    """Free batch and length, two inputs, dict of outputs: the shape of a text encoder."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return {"hidden": hidden, "pooled": hidden.mean(1)}


class Counter(torch.nn.Module):
    """Adds a running number, kept in a buffer that is written in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += x.sum()
        return x + self.count

    @torch.jit.export
    def restart(self):
        self.count.zero_()


class Last(torch.nn.Module):
    """Remembers its input in an attribute."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.last
        self.last = x[:1, 0]
        return x + before


class Moments(NamedTuple):
    mean: torch.Tensor
    std: torch.Tensor


class Stats(torch.nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 2.0) -> Moments:
        if x.size(1) < 2:
            raise ValueError("two columns at least")
        return Moments(x.mean(1) * scale, x.std(1))


def test_traced_module_answers_as_torch_does_and_knows_its_free_axes(tmp_path):
    model = Encoder().eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.jit.trace(model, (ids, torch.ones_like(ids)), strict=False).save(tmp_path / "model.pt")
    loaded = load(tmp_path)
    assert shapes(loaded.signature.inputs) == {
        "input_ids": ("int64", (-1, -1)),
        "attention_mask": ("int64", (-1, -1)),
    }
    assert shapes(loaded.signature.outputs) == {
        "hidden": ("float32", (-1, -1, 3)),
        "pooled": ("float32", (-1, 3)),
    }
    assert loaded.concurrency == 4
    ids = torch.randint(0, 7, (5, 9))
    mask = torch.randint(0, 2, (5, 9))
    answer = loaded.forward({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    expected = model(ids, mask)
    assert list(answer) == ["hidden", "pooled"]
    for name, array in answer.items():
        np.testing.assert_allclose(array, expected[name].detach().numpy(), rtol=1e-6)


def test_a_batch_size_that_a_trace_baked_in_is_not_free(tmp_path):
    class Baked(torch.nn.Module):
        def forward(self, x):
            return x.reshape(2, 3) + torch.zeros(2, 1)

    torch.jit.trace(Baked(), torch.rand(2, 3)).save(tmp_path / "model.pt")
    assert load(tmp_path).signature.inputs[0].shape == (2, 3)


def test_rows_that_depend_on_each_other_are_no_batch(tmp_path):
    class Centred(torch.nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    torch.jit.trace(Centred(), torch.rand(2, 3)).save(tmp_path / "model.pt")
    assert load(tmp_path).signature.inputs[0].shape == (2, -1)


def test_scripted_module_takes_declared_dtypes_shapes_and_names(tmp_path):
    torch.jit.script(Stats()).save(tmp_path / "model.pt")
    loaded = load(tmp_path, inputs="x:float32[-1,-1]")
    assert loaded.signature.inputs == (TensorSpec("x", "float32", (-1, -1)),)
    assert shapes(loaded.signature.outputs) == {"mean": ("float32", (-1,)), "std": ("float32", (-1,))}
    x = np.array([[1, 2, 3], [4, 4, 7]], np.float32)
    answer = loaded.forward({"x": x})
    np.testing.assert_allclose(answer["mean"], x.mean(1) * 2)
    np.testing.assert_allclose(answer["std"], x.std(1, ddof=1), rtol=1e-6)
    renamed = load(tmp_path, inputs="rows:float32[-1,-1],scale=1.0", outputs="average,_")
    np.testing.assert_allclose(renamed.forward({"rows": x})["average"], x.mean(1))


def test_declared_outputs_rename_choose_and_drop(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, x):
            return x, (x * 2, x * 3)

    torch.jit.trace(Two(), torch.rand(1, 2)).save(tmp_path / "model.pt")
    x = np.ones((1, 2), np.float32)
    assert list(load(tmp_path).forward({"x": x})) == ["output_0", "output_1", "output_2"]
    chosen = load(tmp_path, outputs="output_2")
    assert [spec.name for spec in chosen.signature.outputs] == ["output_2"]
    np.testing.assert_array_equal(chosen.forward({"x": x})["output_2"], x * 3)
    assert list(load(tmp_path, outputs="a,_,c").forward({"x": x})) == ["a", "c"]
    with pytest.raises(
        RequestError, match=r"option\.outputs names 2 outputs, the model returned 3"
    ) as caught:
        load(tmp_path, outputs="a,b").forward({"x": x})
    assert caught.value.status == 424


def test_undeclared_script_takes_data_as_it_comes_in_the_precision_of_its_weights(tmp_path):
    torch.jit.script(torch.nn.Linear(3, 2).double()).save(tmp_path / "model.pt")
    loaded = load(tmp_path)
    assert loaded.signature.inputs == (TensorSpec("input", "", None),)
    assert loaded.concurrency == 4  # nothing in its graph writes
    assert loaded.forward({"input": np.ones((4, 3), np.float32)})["output_0"].dtype == np.float64


def test_list_and_dict_arguments_are_named_inputs(tmp_path):
    class Listed(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            return images[0] - images[1]

    torch.jit.script(Listed()).save(tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"argument images is List\[Tensor\]; name its tensors in option\.inputs"
    ):
        load(tmp_path)
    loaded = load(tmp_path, inputs="left:float32[-1,2],right:float32[-1,2]")
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(loaded.forward({"left": 3 * x, "right": x})["output_0"], 2 * x)


def test_bfloat16_weights_are_served_as_float32(tmp_path):
    torch.jit.trace(torch.nn.Linear(3, 2).bfloat16(), torch.rand(1, 3).bfloat16()).save(tmp_path / "model.pt")
    loaded = load(tmp_path)
    assert shapes(loaded.signature.inputs) == {"input": ("float32", (-1, 3))}
    assert loaded.forward({"input": np.ones((2, 3), np.float32)})["output_0"].dtype == np.float32


@pytest.mark.parametrize("module", [Counter, Last])
def test_a_module_that_changes_between_calls_is_not_shared_and_starts_fresh(tmp_path, caplog, module):
    torch.jit.script(module()).save(tmp_path / "model.pt")
    with caplog.at_level("WARNING", "frame_torchscript"):
        loaded = load(tmp_path, inputs="x:float32[-1,2]")
    assert "model_keeps_state" in caplog.text
    assert loaded.concurrency == 1
    x = np.ones((1, 2), np.float32)
    fresh = torch.jit.script(module())
    for _ in range(3):  # trial calls at load have left no trace
        np.testing.assert_array_equal(loaded.forward({"x": x})["output_0"], fresh(torch.ones(1, 2)).numpy())


def test_warm_up_leaves_the_state_of_a_stateful_module_alone(tmp_path):
    torch.jit.script(Counter()).save(tmp_path / "model.pt")
    loaded = load(tmp_path, inputs="x:float32[-1,2]")
    loaded.warm_up()
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(loaded.forward({"x": x})["output_0"], [[3, 3]])


def test_a_module_that_may_write_and_cannot_be_tried_is_not_shared(tmp_path):
    torch.jit.script(Counter()).save(tmp_path / "model.pt")
    assert load(tmp_path).concurrency == 1


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_batch_norm_left_in_training_mode_by_a_trace_is_state(tmp_path):
    norm = torch.nn.BatchNorm1d(2).train()
    torch.jit.trace(norm, torch.rand(3, 2), check_trace=False).save(tmp_path / "model.pt")
    assert load(tmp_path).concurrency == 1
    torch.jit.script(torch.nn.BatchNorm1d(2)).save(tmp_path / "model.pt")
    assert load(tmp_path, inputs="input:float32[-1,2]").concurrency == 4


@pytest.mark.parametrize("options", [{}, {"freeze": True}])
def test_a_reset_method_gives_every_call_a_fresh_state(tmp_path, options):
    torch.jit.script(Counter()).save(tmp_path / "model.pt")
    loaded = load(tmp_path, inputs="x:float32[-1,2]", reset="restart", **options)
    assert loaded.concurrency == 1
    x = np.ones((1, 2), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(loaded.forward({"x": x})["output_0"], [[3, 3]])


def test_requests_of_one_batch_each_get_the_answer_of_a_fresh_state(tmp_path):
    torch.jit.script(Counter()).save(tmp_path / "model.pt")
    loaded = load(tmp_path, inputs="x:float32[-1,2]", reset="restart")
    loaded.warm_up()
    answers = loaded.predict([ask(0, [[1, 1]]), ask(1, [[5, 5]]), ask(2, [[1, 1]])])
    assert [told(answer) for answer in answers] == [[[3, 3]], [[15, 15]], [[3, 3]]]


def test_an_answer_that_is_the_state_itself_is_not_changed_by_the_next_request(tmp_path):
    class Total(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += x.sum()
            return self.total

    torch.jit.script(Total()).save(tmp_path / "model.pt")
    loaded = load(tmp_path, inputs="x:float32[-1,-1]")
    answers = loaded.predict([ask(0, [[1, 1]]), ask(1, [[1, 1, 1]])])
    assert [told(answer) for answer in answers] == [[2], [5]]


def test_one_requests_bad_index_fails_alone_in_its_batch(tmp_path):
    model = Encoder().eval()
    ids = torch.tensor([[1, 2, 3]])
    torch.jit.trace(model, (ids, torch.ones_like(ids)), strict=False).save(tmp_path / "model.pt")
    rows = [[[1, 2]], [[3, 99]], [[5, 6]]]
    answers = load(tmp_path).predict(
        [ask(n, {"input_ids": row, "attention_mask": [[1, 1]]}) for n, row in enumerate(rows)]
    )
    assert answers[1].status == 400
    assert "index out of range" in answers[1].message
    for n in (0, 2):
        expected = model(torch.tensor(rows[n]), torch.ones(1, 2))["pooled"].tolist()
        np.testing.assert_allclose(told(answers[n])["pooled"], expected, rtol=1e-5)


def test_json_for_an_undeclared_module_is_taken_as_it_is_written(tmp_path):
    torch.jit.script(torch.nn.Embedding(5, 2)).save(tmp_path / "model.pt")
    loaded = load(tmp_path)
    taken, refused = loaded.predict([ask(0, [[1, 4]]), ask(1, [[0.5]])])
    weights = told(loaded.predict([ask(2, [0, 1, 2, 3, 4])])[0])
    assert told(taken) == [[weights[1], weights[4]]]
    assert refused.status == 400


@pytest.mark.parametrize("option", ["freeze", "optimize_for_inference"])
def test_optimized_modules_give_the_same_answers(tmp_path, option):
    model = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.ReLU(inplace=True)
    ).eval()
    x = torch.rand(2, 2, 9)
    torch.jit.trace(model, x).save(tmp_path / "model.pt")
    loaded = load(tmp_path, **{option: True})
    assert loaded.concurrency == 4
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(
        loaded.forward({"input": x.numpy()})["output_0"], expected, rtol=1e-4, atol=1e-5
    )


def test_two_threads_share_a_module_without_mixing_answers(tmp_path):
    torch.jit.trace(torch.nn.Linear(16, 16), torch.rand(1, 16)).save(tmp_path / "model.pt")
    engine = TorchScriptEngine(EngineContext(devices=("cpu",), slots=2))
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(tmp_path),
        model_file="model.pt",
        options=TorchScriptOptions(),
        properties={},
    )
    loaded = engine.load(spec)
    wrong = []

    def slot(value):
        x = np.full((3, 16), value, np.float32)
        with engine.slot_context():
            expected = loaded.forward({"input": x})["output_0"]
            for _ in range(50):
                answer = loaded.forward({"input": x})["output_0"]
                if not np.array_equal(answer, expected):
                    wrong.append(value)

    threads = [threading.Thread(target=slot, args=(value,)) for value in (1.0, -1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_read_only_input_is_not_written_by_a_module_that_works_in_place(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2)

    torch.jit.script(Doubled()).save(tmp_path / "model.pt")
    x = np.frombuffer(np.ones(4, np.float32).tobytes(), np.float32).reshape(2, 2)
    answer = load(tmp_path, inputs="x:float32[-1,2]").forward({"x": x})
    np.testing.assert_array_equal(answer["output_0"], np.full((2, 2), 2))
    np.testing.assert_array_equal(x, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("inputs", "x", "status", "message"),
    [
        ("", np.ones((1, 1), np.float32), 424, r"refused x float32\[1, 1\]: two columns at least$"),
        ("", np.ones((3,), np.float32), 400, r"cannot take x float32\[3\]: Dimension out of range"),
        ("", np.ones((1, 3), np.int64), 400, r"cannot take x int64\[1, 3\]"),
    ],
)
def test_bad_input_gets_a_client_error_without_code(tmp_path, inputs, x, status, message):
    torch.jit.script(Stats()).save(tmp_path / "model.pt")
    with pytest.raises(RequestError, match=message) as caught:
        load(tmp_path, inputs=inputs).forward({"x": x})
    assert caught.value.status == status
    assert "Traceback" not in caught.value.message
    assert "File" not in caught.value.message


def test_an_index_out_of_range_is_the_clients_fault(tmp_path):
    ids = torch.tensor([[1, 2, 3]])
    torch.jit.trace(Encoder(), (ids, torch.ones_like(ids)), strict=False).save(tmp_path / "model.pt")
    far = np.array([[99]])
    with pytest.raises(RequestError, match="index out of range") as caught:
        load(tmp_path).forward({"input_ids": far, "attention_mask": far})
    assert caught.value.status == 400


def test_a_module_that_returns_no_tensor_is_the_models_fault(tmp_path):
    class Size(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x, x.size(0)

    torch.jit.script(Size()).save(tmp_path / "model.pt")
    with pytest.raises(RequestError, match="returned int where a tensor is needed") as caught:
        load(tmp_path).forward({"x": np.ones((1, 2), np.float32)})
    assert caught.value.status == 424


def test_a_closed_model_refuses_calls_and_closes_again(tmp_path):
    torch.jit.script(torch.nn.Identity()).save(tmp_path / "model.pt")
    loaded = load(tmp_path)
    loaded.close()
    loaded.close()
    with pytest.raises(RequestError, match="closed"):
        loaded.forward({"input": np.ones((1, 2), np.float32)})


def test_loading_raises_no_deprecation_warning(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, optimize_for_inference=True, inputs="input:float32[-1,2]")


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x, weights, power: int = 2):
        return {"y": self.linear(x) * weights**power, "kept": (x, weights)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model = Scaled().eval()
    rows = torch.export.Dim("rows", min=1)
    examples = {"x": torch.rand(3, 4), "weights": torch.rand(3, 2)}
    program = torch.export.export(model, (), examples, dynamic_shapes={"x": {0: rows}, "weights": {0: rows}})
    torch.export.save(program, folder / "model.pt2")
    return folder, model


def test_exported_program_answers_as_its_module_for_any_number_of_rows(exported):
    folder, model = exported
    loaded = load(folder, "model.pt2")
    assert shapes(loaded.signature.inputs) == {"x": ("float32", (-1, 4)), "weights": ("float32", (-1, 2))}
    assert shapes(loaded.signature.outputs) == {
        "y": ("float32", (-1, 2)),
        "output_1": ("float32", (-1, 4)),
        "output_2": ("float32", (-1, 2)),
    }
    assert loaded.concurrency == 4
    for rows in (1, 5):
        x, weights = torch.rand(rows, 4), torch.rand(rows, 2)
        answer = loaded.forward({"x": x.numpy(), "weights": weights.numpy()})
        np.testing.assert_allclose(answer["y"], model(x, weights)["y"].detach().numpy(), rtol=1e-5)


def test_exported_program_refuses_other_sizes_as_the_clients_fault(exported):
    folder, _ = exported
    with pytest.raises(RequestError) as caught:
        load(folder, "model.pt2").forward(
            {"x": np.ones((1, 5), np.float32), "weights": np.ones((1, 2), np.float32)}
        )
    assert caught.value.status == 400


def test_exported_inputs_and_outputs_can_be_renamed_not_changed(exported):
    folder, _ = exported
    loaded = load(folder, "model.pt2", inputs="a:float32[-1,4],b", outputs="y,_,_")
    assert [spec.name for spec in loaded.signature.inputs] == ["a", "b"]
    assert [spec.name for spec in loaded.signature.outputs] == ["y"]
    with pytest.raises(ValueError, match=r"x differs from what the program records: x:float32\[-1, 4\]"):
        load(folder, "model.pt2", inputs="x:int64,weights")
    with pytest.raises(ValueError, match=r"names 1, the program has 2"):
        load(folder, "model.pt2", inputs="x")
    with pytest.raises(ValueError, match=r"option\.reset is for TorchScript"):
        load(folder, "model.pt2", reset="restart")


def test_exported_program_that_writes_a_buffer_keeps_state(tmp_path):
    program = torch.export.export(Counter(), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = load(tmp_path, "model.pt2")
    assert loaded.concurrency == 1
    x = np.ones((1, 2), np.float32)
    assert [loaded.forward({"x": x})["output_0"][0, 0] for _ in range(2)] == [3, 5]


def test_exported_program_that_works_in_place_on_its_own_values_is_shared(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.ReLU(inplace=True)
    ).eval()
    rows = torch.export.Dim("rows")
    program = torch.export.export(model, (torch.ones(2, 2),), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert load(tmp_path, "model.pt2").concurrency == 4


def test_threads_are_the_contexts_unless_the_option_says_otherwise(tmp_path):
    torch.jit.script(torch.nn.Identity()).save(tmp_path / "model.pt")
    before = torch.get_num_threads()
    try:
        load(tmp_path)
        assert torch.get_num_threads() == 1
        load(tmp_path, intra_op_num_threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

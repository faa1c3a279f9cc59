"""The TorchScript engine on scripted and traced modules made here, against torch run directly."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from frame.api import RequestError, TensorSpec

from tests.unit.torchscript_modules import Encoder, ask, load, shapes, told


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

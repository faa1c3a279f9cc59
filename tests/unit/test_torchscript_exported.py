"""The TorchScript engine on programs of torch.export, against their modules run directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frame.api import RequestError

from tests.unit.torchscript_modules import Counter, load, shapes


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

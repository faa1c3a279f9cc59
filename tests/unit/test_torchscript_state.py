"""The TorchScript engine tells which modules keep state, and gives each request a fresh one when asked."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from frame.api import EngineContext, ModelSpec
from frame_torchscript.engine import TorchScriptEngine
from frame_torchscript.options import TorchScriptOptions

from tests.unit.torchscript_modules import Counter, ask, load, told


class Last(torch.nn.Module):
    """Remembers its input in an attribute."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.last
        self.last = x[:1, 0]
        return x + before


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

"""The TorchScript engine on a CUDA device, against the same module on the CPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from frame.api import EngineContext, ModelSpec
from frame_torchscript.engine import TorchScriptEngine
from frame_torchscript.options import TorchScriptOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device for torch"),
]


def load(folder, name="model.pt", *, device="gpu0", **options):
    engine = TorchScriptEngine(EngineContext(devices=(device,), slots=2))
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file=name,
        options=TorchScriptOptions(**options),
        properties={},
    )
    return engine, engine.load(spec)


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        self.count += x.sum()
        return x * scale + self.count

    @torch.jit.export
    def restart(self):
        self.count.zero_()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("options", [{}, {"mapLocation": False}, {"freeze": True}])
def test_traced_module_answers_on_the_gpu_as_on_the_cpu(tmp_path, options):
    torch.jit.trace(network(), torch.rand(2, 8)).save(tmp_path / "model.pt")
    x = np.random.default_rng(0).random((5, 8), np.float32)
    engine, on_gpu = load(tmp_path, **options)
    _, on_cpu = load(tmp_path, device="cpu")
    assert on_gpu.signature == on_cpu.signature
    assert on_gpu.concurrency == 2
    with engine.slot_context():
        answer = on_gpu.forward({"input": x})["output_0"]
    np.testing.assert_allclose(answer, on_cpu.forward({"input": x})["output_0"], rtol=1e-2, atol=1e-3)
    assert torch.cuda.memory_allocated() > 0


def test_exported_program_is_moved_to_the_gpu(tmp_path):
    model = network()
    rows = torch.export.Dim("rows")
    program = torch.export.export(model, (torch.rand(2, 8),), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "model.pt2")
    engine, loaded = load(tmp_path, "model.pt2")
    x = torch.rand(5, 8)
    with engine.slot_context():
        answer = loaded.forward({"input": x.numpy()})["output_0"]
    np.testing.assert_allclose(answer, model(x).detach().numpy(), rtol=1e-2, atol=1e-3)


def test_state_is_seen_and_reset_on_the_gpu(tmp_path):
    torch.jit.script(Counter()).save(tmp_path / "model.pt")
    x = np.ones((1, 2), np.float32)
    _, stateful = load(tmp_path, inputs="x:float32[-1,2]")
    assert stateful.concurrency == 1
    assert [stateful.forward({"x": x})["output_0"][0, 0] for _ in range(2)] == [3, 5]
    _, fresh = load(tmp_path, inputs="x:float32[-1,2],scale:float32[]", reset="restart")
    one = np.array(1.0)
    assert [fresh.forward({"x": x, "scale": one})["output_0"][0, 0] for _ in range(2)] == [3, 3]


def test_slots_on_streams_of_their_own_do_not_mix_answers(tmp_path):
    torch.jit.trace(network(), torch.rand(2, 8)).save(tmp_path / "model.pt")
    engine, loaded = load(tmp_path)
    wrong = []
    streams = set()

    def slot(value):
        x = np.full((64, 8), value, np.float32)
        with engine.slot_context():
            streams.add(torch.cuda.current_stream().cuda_stream)
            expected = loaded.forward({"input": x})["output_0"]
            answers = [loaded.forward({"input": x})["output_0"] for _ in range(200)]
        wrong.extend(value for answer in answers if not np.array_equal(answer, expected))

    threads = [threading.Thread(target=slot, args=(value,)) for value in (1.0, -1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert len(streams) == 2


def test_too_large_a_batch_is_a_memory_error_and_the_model_lives_on(tmp_path):
    class Huge(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(x.size(0), 1 << 38, device=x.device).sum(1)

    torch.jit.script(Huge()).save(tmp_path / "model.pt")
    _, loaded = load(tmp_path)
    with pytest.raises(Exception, match="not enough memory") as caught:
        loaded.forward({"x": np.ones((4, 1), np.float32)})
    assert caught.value.status == 507

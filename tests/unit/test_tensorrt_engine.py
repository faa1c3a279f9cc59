"""The TensorRT engine against stand-ins of TensorRT and CUDA: what it asks of them, and what it says.

There is no device here that has the real ones.
"""

# ruff: noqa: N802  # the names are CUDA's

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frame.api import EngineContext, ModelSpec, RequestError
from frame.cli.main import main
from frame.contract.options import parse_options
from frame_tensorrt.options import TensorRTOptions

GPU = EngineContext(devices=("gpu1",))


class Cuda:
    """CUDA's runtime on the host's memory; counts what is allocated."""

    def __init__(self) -> None:
        self.cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2, cudaErrorUnknown=999)
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.blocks: dict[int, Any] = {}
        self.streams: list[int] = []
        self.device: int | None = None
        self.room = 1 << 20

    def cudaSetDevice(self, index: int) -> tuple[int]:
        self.device = index
        return (0,)

    def cudaStreamCreate(self) -> tuple[int, int]:
        self.streams.append(7)
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0 if stream in self.streams else 999,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if size > self.room:
            return 2, 0
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, origin: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = to if kind == 1 else origin
        assert size <= len(self.blocks[device])
        ctypes.memmove(to, origin, size)
        return (0,)


class FakeEngine:
    """An engine that doubles x, of 1 to 4 rows of 3."""

    num_optimization_profiles = 2
    num_io_tensors = 2

    def __init__(self, cuda: Cuda, *, dtype: str = "FLOAT", works: bool = True) -> None:
        self.cuda, self.dtype, self.works = cuda, dtype, works

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> str:
        return {"x": "in", "y": "out"}[name]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.dtype)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3)

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (2, 3), (4 + profile, 3)]

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    """What runs a `FakeEngine`."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.shape, self.addresses, self.profile = engine, (0, 3), {}, 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return 1 <= shape[0] <= 4 + self.profile

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape)) * 4
        given = np.frombuffer(self.engine.cuda.blocks[self.addresses["x"]], "float32", size // 4)
        ctypes.memmove(self.addresses["y"], (given * 2).tobytes(), size)
        return self.engine.works


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture
def world(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Put the stand-ins where the engine imports them; `world.engine` is what a file has."""
    given = SimpleNamespace(engine=FakeEngine(cuda))
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "10.0"
    trt.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    trt.TensorIOMode = SimpleNamespace(INPUT="in")
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: given.engine)
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = cuda
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    yield given
    for name in ("frame_tensorrt.engine", "frame_tensorrt.memory"):
        sys.modules.pop(name, None)


def load(folder: Path, context: EngineContext = GPU, **options: str) -> Any:
    from frame_tensorrt.engine import TensorRTEngine

    (folder / "model.plan").write_bytes(b"plan")
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file="model.plan",
        options=parse_options(TensorRTOptions, options),
        properties=options,
    )
    return TensorRTEngine(context).load(spec)


def rows(count: int) -> dict[str, Any]:
    return {"x": np.arange(3 * count, dtype="float32").reshape(count, 3)}


def test_batches_of_any_size_within_the_profile_are_run(
    world: SimpleNamespace, cuda: Cuda, tmp_path: Path
) -> None:
    model = load(tmp_path)
    model.warm_up()
    assert cuda.device == 1
    for count in (1, 4, 2):
        np.testing.assert_array_equal(model.forward(rows(count))["y"], rows(count)["x"] * 2)
    assert len(cuda.blocks) == 2  # one for each tensor, whatever the order of sizes
    (spec,) = model.signature.inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", (-1, 3))
    model.close()
    model.close()
    assert (cuda.blocks, cuda.streams) == ({}, [])


def test_a_batch_outside_of_the_profile_says_what_fits(world: SimpleNamespace, tmp_path: Path) -> None:
    model = load(tmp_path)
    with pytest.raises(RequestError, match=r"x: \[5, 3\] is outside .* \[1, 3\] to \[4, 3\]"):
        model.forward(rows(5))
    other = load(tmp_path, profile="1")
    assert other.forward(rows(5))["y"].shape == (5, 3)


def test_a_gpu_without_room_is_a_memory_error(world: SimpleNamespace, cuda: Cuda, tmp_path: Path) -> None:
    model = load(tmp_path)
    cuda.room = 11
    with pytest.raises(MemoryError):
        model.forward(rows(1))
    cuda.room = 1000
    assert model.forward(rows(1))["y"].shape == (1, 3)


def test_a_failed_run_is_an_error(world: SimpleNamespace, cuda: Cuda, tmp_path: Path) -> None:
    world.engine = FakeEngine(cuda, works=False)
    with pytest.raises(RuntimeError, match="could not run"):
        load(tmp_path).forward(rows(1))


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        (None, {}, "model.plan: TensorRT 10.0 cannot load it.*build it again"),
        ({}, {"profile": "2"}, r"option.profile=2: model.plan has 2 optimisation profiles"),
        ({"dtype": "FP8"}, {}, "x has the type FP8; supported are FLOAT, HALF"),
    ],
)
def test_what_cannot_be_loaded_says_why_and_leaves_nothing(
    engine: dict[str, Any] | None,
    options: dict[str, str],
    said: str,
    world: SimpleNamespace,
    cuda: Cuda,
    tmp_path: Path,
) -> None:
    world.engine = None if engine is None else FakeEngine(cuda, **engine)
    with pytest.raises(ValueError, match=said):
        load(tmp_path, **options)
    assert (cuda.blocks, cuda.streams) == ({}, [])


@pytest.mark.parametrize("devices", [("cpu",), ("gpu0", "gpu1")])
def test_it_runs_on_one_gpu(devices: tuple[str, ...], world: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"one NVIDIA GPU, not on {'.'.join(devices)}"):
        load(tmp_path, EngineContext(devices=devices))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_check_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.plan").touch()
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "the engine tensorrt needs tensorrt: pip install frame-tensorrt[gpu]" in said

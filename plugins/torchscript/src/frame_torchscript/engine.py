"""The TorchScript engine: loads a program and runs it on named arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from frame.api import (
    Engine,
    EngineContext,
    ModelSpec,
    Request,
    RequestError,
    Response,
    ResponseStream,
    TensorModel,
    Tensors,
)

from frame_torchscript.archives import identify
from frame_torchscript.declared import parse_tensors
from frame_torchscript.exported import load_exported
from frame_torchscript.failures import to_request_error
from frame_torchscript.options import TorchScriptOptions
from frame_torchscript.outputs import named_tensors, rename, to_numpy
from frame_torchscript.probing import REFUSALS
from frame_torchscript.program import Input, Program
from frame_torchscript.script import load_script

_log = logging.getLogger(__name__)

_BAD_REQUEST = 400
_WARM_UP_CALLS = 2  # TorchScript's executor profiles the first call and compiles in the second


class TorchScriptEngine(Engine):
    """One per worker process, on one device."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._device = _device(context.devices)
        self._threads = context.threads

    def load(self, spec: ModelSpec) -> TorchModel:
        """Load an archive of TorchScript or torch.export, told apart by its contents."""
        options: TorchScriptOptions = spec.options
        if spec.model_file is None:
            raise ValueError(
                f"model {spec.name}: no *.pt, *.pt2, *.jit or *.torchscript file in its folder; "
                "name one model.pt"
            )
        self._threads = options.intra_op_num_threads or self.context.threads
        _set_threads(self._threads, options.inter_op_num_threads)
        path = Path(spec.path) / spec.model_file
        load = load_script if identify(path) == "torchscript" else load_exported
        program = load(path, options, self._device)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the slots' own streams do not wait for this one
        names = tuple(item.name for item in parse_tensors(options.outputs, "option.outputs"))
        return TorchModel(program, self._device, slots=self.context.slots, output_names=names)

    @contextmanager
    def slot_context(self) -> Iterator[None]:
        """Run a slot without gradients, with its own CUDA stream and the model's number of threads."""
        torch.set_num_threads(self._threads)  # OpenMP keeps it per thread
        with ExitStack() as stack:
            if self._device.type == "cuda":
                stack.enter_context(torch.cuda.device(self._device))
                stack.enter_context(torch.cuda.stream(torch.cuda.Stream(self._device)))
            stack.enter_context(torch.inference_mode())
            yield


class TorchModel(TensorModel):
    """A loaded program: shared by slots when it keeps no state; with a reset each request runs afresh."""

    def __init__(
        self, program: Program, device: torch.device, *, slots: int = 1, output_names: tuple[str, ...] = ()
    ) -> None:
        self.concurrency = 1 if program.keeps_state else slots
        self.signature = program.signature
        self.extra_files = dict(program.extra_files)
        self._program: Program | None = program
        self._device = device
        self._output_names = output_names

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch: arrays in, arrays out."""
        program = self._program
        if program is None:
            raise RequestError(503, "the model is closed", type_name="ModelNotReadyError")
        try:
            with torch.inference_mode():  # again, for callers outside the slot threads
                if program.reset is not None:
                    program.reset()
                result = program.run(self._tensors(program, inputs))
                outputs = rename(named_tensors(result), self._output_names)
                if program.keeps_state:  # an output may be the state itself, which the next call changes
                    outputs = {name: tensor.clone() for name, tensor in outputs.items()}
                return to_numpy(outputs)
        except RequestError:
            raise
        except REFUSALS as error:
            answer = to_request_error(error, inputs)
            _log.log(_level(answer), "model_call_failed status=%d error=%s", answer.status, error)
            raise answer from error

    def _tensors(self, program: Program, inputs: Tensors) -> dict[str, torch.Tensor]:
        tensors = {}
        for item in program.inputs:
            array = inputs[item.spec.name]
            tensors[item.spec.name] = _tensor(array, _dtype(item, array, program), self._device)
        return tensors

    def predict(self, batch: Sequence[Request]) -> Sequence[Response | ResponseStream | RequestError]:
        """Answer each request; one by one when each needs a fresh state."""
        if self._program is None or self._program.reset is None:
            return super().predict(batch)
        return [answer for request in batch for answer in super(TorchModel, self).predict([request])]

    def warm_up(self) -> None:
        """Let torch compile, except where a call would leave a trace in the state that clients see."""
        program = self._program
        if program is None or (program.keeps_state and program.reset is None):
            return
        for _ in range(_WARM_UP_CALLS):
            super().warm_up()

    def close(self) -> None:
        """Drop the program and give its CUDA memory back."""
        self._program = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _level(answer: RequestError) -> int:
    """Return the log level: what the client can mend is not the operator's concern."""
    return logging.DEBUG if answer.status == _BAD_REQUEST else logging.WARNING


def _dtype(item: Input, array: Any, program: Program) -> torch.dtype | None:
    """Return what to turn the array into; without a known dtype, floats take that of the weights."""
    if item.dtype is None and array.dtype.kind == "f":
        return program.float_dtype
    return item.dtype


def _tensor(array: Any, dtype: torch.dtype | None, device: torch.device) -> torch.Tensor:
    """Hand an array to torch; a read-only one is copied, since a module may write to its inputs."""
    owned = array if array.flags.writeable and array.flags.c_contiguous else array.copy()
    return torch.from_numpy(owned).to(device, dtype)


def _device(devices: tuple[str, ...]) -> torch.device:
    if len(devices) != 1:
        raise ValueError(f"a TorchScript model runs on one device, not {'+'.join(devices)} (load_on_devices)")
    if not devices[0].startswith("gpu"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"{devices[0]}: this torch ({torch.__version__}) sees no CUDA device; install a CUDA build, "
            "or set load_on_devices=cpu"
        )
    return torch.device("cuda", int(devices[0].removeprefix("gpu") or 0))


def _set_threads(intra: int, inter: int) -> None:
    torch.set_num_threads(intra)
    if torch.get_num_interop_threads() == inter:
        return
    try:
        torch.set_num_interop_threads(inter)
    except RuntimeError:  # torch allows one change per process, before any work
        _log.warning("inter_op_num_threads_kept wanted=%d is=%d", inter, torch.get_num_interop_threads())

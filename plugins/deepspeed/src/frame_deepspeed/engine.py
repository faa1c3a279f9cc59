"""The DeepSpeed engine: one rank of a group that serves a `model.py`, or a model without code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from frame.api import Engine, EngineContext, Model, ModelSpec, Request, RequestError, Response, ResponseStream
from frame_python.engine import PythonEngine
from frame_python.loading import find_entry_point

from frame_deepspeed.after_import import after_import
from frame_deepspeed.collectives import choose_when_joining, leave_ranks
from frame_deepspeed.compat import find_attributes_on_module, warn_of_known_faults
from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.seeding import combined_seed, seed_generators

Answers = Sequence[Response | ResponseStream | RequestError]


class HandlerModel(Model):
    """A user's `model.py` on one rank: seeded before each call, as on all ranks.

    What the handler raises is answered as an error by the model inside, if it is raised on all ranks: the
    worker compares which requests failed on each, and ends a group where one rank failed alone.
    """

    concurrency = 1

    def __init__(self, inner: Model) -> None:
        self._inner = inner
        self.signature = inner.signature

    def predict(self, batch: Sequence[Request]) -> Answers:
        """Answer a batch by the handler, every random choice from the requests' seeds."""
        seed_generators(combined_seed([request.seed for request in batch]))
        return self._inner.predict(batch)

    def close(self) -> None:
        """Close the handler. Idempotent."""
        self._inner.close()


class DeepSpeedEngine(Engine):
    """Loads one rank's part of a model. Every rank of a group makes the same calls."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._python = PythonEngine(context)
        self._is_closed = False
        _set_environment(context)

    def load(self, spec: ModelSpec) -> Model:
        """Load the folder's `model.py` by its empty call, or without one the model of transformers in it.

        Raises:
            ValueError: there is nothing to load, or DeepSpeed cannot do what is asked.
            RequestError: the handler's first call failed; 507 for memory.
        """
        self.prepare_libraries(spec.options)
        if find_entry_point(spec).kind == "built_in":
            from frame_deepspeed.built_in import load_built_in  # torch and transformers

            return load_built_in(spec, self.context)
        with self.slot_context():
            return HandlerModel(self._python.load(spec))

    def slot_context(self) -> AbstractContextManager[None]:
        """Turn gradients off: with them AutoTP's layers raise when a model has biases."""
        torch = sys.modules.get("torch")
        return nullcontext() if torch is None else torch.no_grad()

    def close(self) -> None:
        """Leave the group's ranks. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._python.close()
            leave_ranks()

    def prepare_libraries(self, options: DeepSpeedOptions) -> None:
        """Mend and set up torch and DeepSpeed as soon as somebody imports them, not before."""
        threads = self.context.threads
        has_gpu = any(device.startswith("gpu") for device in self.context.devices)
        wanted = options.all_reduce
        after_import("torch", lambda torch: torch.set_num_threads(threads))
        after_import(
            "deepspeed.comm.torch", lambda module: choose_when_joining(module, wanted, has_gpu=has_gpu)
        )
        if options.compat != "off":
            after_import("deepspeed.inference.engine", find_attributes_on_module)
        after_import("deepspeed", warn_of_known_faults)


def _set_environment(context: EngineContext) -> None:
    """Set what torch, DeepSpeed and transformers read at import, where the launcher did not."""
    os.environ.setdefault("OMP_NUM_THREADS", str(context.threads))
    if not any(device.startswith("gpu") for device in context.devices):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for others, with a warning
    if os.environ.get("MASTER_ADDR", "127.0.0.1") == "127.0.0.1":
        # Ranks of one host need no other network, and gloo would resolve the host's name, which may fail.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

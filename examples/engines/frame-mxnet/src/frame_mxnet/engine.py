"""What workers run: symbols with their parameters."""

from __future__ import annotations

from pathlib import Path

import mxnet
import numpy as np
from frame.api import Engine, ModelSpec, Signature, TensorModel, Tensors, TensorSpec

from frame_mxnet.options import MXNetOptions


class MXNetModel(TensorModel):
    """A symbol on the CPU; MXNet runs one call of a block at a time."""

    def __init__(self, block: mxnet.gluon.SymbolBlock, names: list[str], shape: tuple[int, ...]) -> None:
        self._block = block
        rows = (-1, *shape) if len(names) == 1 else None
        self.signature = Signature(
            inputs=tuple(TensorSpec(name, "float32", rows) for name in names),
            outputs=(TensorSpec("output", "float32", None),),
        )

    def forward(self, inputs: Tensors) -> Tensors:
        """Run one batch."""
        found = self._block(*(mxnet.nd.array(array) for array in inputs.values()))
        return {"output": np.asarray(found.asnumpy(), dtype=np.float32)}


class MXNetEngine(Engine):
    """Loads what `HybridBlock.export` and `Module.save_checkpoint` write."""

    def load(self, spec: ModelSpec) -> MXNetModel:
        """Load one.

        Raises:
            ValueError: a file is not there, or cannot be read.
        """
        options: MXNetOptions = spec.options
        if spec.model_file is None:
            raise ValueError("there is no *-symbol.json in the model folder")
        symbol = Path(spec.path, spec.model_file)
        params = symbol.with_name(symbol.name.replace("-symbol.json", f"-{options.epoch:04d}.params"))
        if not params.exists():
            raise ValueError(
                f"there is no {params.name} beside {symbol.name}; option.epoch says which is read"
            )
        names = [name.strip() for name in options.inputs.split(",")]
        shape = tuple(int(size) for size in options.shape.split(","))
        try:
            block = mxnet.gluon.SymbolBlock.imports(str(symbol), names, str(params))
        except mxnet.base.MXNetError as error:
            raise ValueError(
                f"{spec.model_file}: MXNet cannot read it: {str(error).splitlines()[0]}"
            ) from error
        return MXNetModel(block, names, shape)

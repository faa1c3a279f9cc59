"""DJL Serving's DeepSpeed handler, for a `model.py` that calls it on one device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from djl_python.huggingface import HuggingFaceService
from djl_python.inputs import Input
from djl_python.outputs import Output


class DeepSpeedService(HuggingFaceService):
    """The transformers handler under its other name: on one device nothing is to be cut."""

    def initialize(self, properties: Mapping[str, Any]) -> None:
        """Load the model.

        Raises:
            ValueError: there are several ranks, over which only the engine cuts a model; or see the base.
        """
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                "djl_python.deepspeed in a model.py does not cut the model over several ranks: leave the "
                "model.py out (engine=DeepSpeed serves the folder by itself), or call deepspeed in it"
            )
        super().initialize(properties)


_service = DeepSpeedService()


def handle(inputs: Input) -> Output | list[Output | Exception] | None:
    """Load the model in the first call; later answer requests."""
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else _service.inference(inputs)

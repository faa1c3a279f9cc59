"""DJL Serving's transformers handler, for a `model.py` that calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output


class HuggingFaceService:
    """Loads a model of transformers and answers calls, whole batches at a time.

    A folder without a `model.py` is served by the same code; there requests join a running batch, and stream.
    """

    def __init__(self) -> None:
        self.initialized = False
        self._model: Any = None

    def initialize(self, properties: Mapping[str, Any]) -> None:
        """Load the model that the options in `properties` name.

        Raises:
            ValueError: an option or a file is wrong.
        """
        from frame_python.handlers.built_in import build_model
        from frame_python.handlers.loading import load_transformer, torch_device

        options = _typed_options(properties)
        number = str(properties.get("device_id", "-1"))
        device = torch_device("cpu" if number == "-1" else f"gpu{number}")
        loaded = load_transformer(
            options, str(properties["model_dir"]), device, is_max_tokens_set="max_tokens" in properties
        )
        self._model = build_model(loaded, dataclasses.replace(options, rolling_batch="disable"))
        self.initialized = True

    def inference(self, inputs: Input) -> Output | list[Output | Exception]:
        """Answer one request, or each of a batch by itself.

        Raises:
            RequestError: the one request is wrong.
        """
        items = inputs.get_batches()
        answers = [_output(answer) for answer in self._model.predict([_request(item) for item in items])]
        if inputs.is_batch():
            return answers
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]


_service = HuggingFaceService()


def handle(inputs: Input) -> Output | list[Output | Exception] | None:
    """Load the model in the first call; later answer requests."""
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else _service.inference(inputs)


def _typed_options(properties: Mapping[str, Any]) -> Any:
    """Return the handler's options from properties, which are strings."""
    from frame_python.handlers.options import TransformersOptions

    given: dict[str, Any] = {}
    for item in dataclasses.fields(TransformersOptions):
        if item.name in properties:
            text = str(properties[item.name])
            kind: object = type(item.default)
            given[item.name] = text.lower() == "true" if kind is bool else int(text) if kind is int else text
    return TransformersOptions(**given)


def _request(item: Input) -> Any:
    from frame.api import Part, Properties, Request

    content = item.content
    parts = tuple(
        Part(content.key_at(index) or "data", content.value_at(index)) for index in range(content.size())
    )
    return Request(id="", properties=Properties(item.get_properties()), parts=parts)


def _output(answer: Any) -> Output | Exception:
    if isinstance(answer, Exception):
        return answer
    output = Output()
    for key, value in answer.properties.items():
        output.add_property(key, value)
    return output.add(bytes(answer.parts[0].data))

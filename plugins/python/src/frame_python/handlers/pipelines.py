"""Classify, tag, fill in, embed and answer questions: requests of one call of an encoder, batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from frame.api import Model, Part, Request, RequestError, Response

from frame_python.handlers.loading import Transformer
from frame_python.handlers.payload import json_body, read_parameters, read_payload
from frame_python.handlers.pipeline_tasks import EmbeddingTask, TransformersTask
from frame_python.handlers.question_answering import QuestionAnsweringTask

MAX_ROWS = 64
"""Rows of one call."""

Row = dict[str, Any]
"""Inputs of one call for one text: tensors [1, tokens], and what the task keeps for its answer."""


class TextTask(Protocol):
    """From one input to rows, and from their outputs to its answer."""

    parameters: frozenset[str]

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of one input. Raise ValueError, TypeError or KeyError when it is wrong."""
        ...

    def decode(self, rows: list[Row], outputs: list[Row], parameters: Mapping[str, Any]) -> Any:
        """Return the answer as JSON values, from float32 outputs on the CPU, [1, …] each."""
        ...


@dataclass(slots=True)
class _Item:
    value: Any
    rows: list[Row]
    outputs: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class _Asked:
    parameters: dict[str, Any]
    items: list[_Item]
    is_list: bool


class PipelineModel(Model):
    """Answers `{"inputs": …, "parameters": {…}}` as transformers' pipeline of the task does.

    Invariant: an answer is what the request would get alone. Rows are padded on the right, where attention
    does not look, and outputs are cut to each row's own length.
    """

    def __init__(self, loaded: Transformer, task: TextTask) -> None:
        self._loaded = loaded
        self._task = task
        config = loaded.model.config
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = loaded.tokenizer.pad_token_id  # decoders that classify look for it

    def predict(self, batch: Sequence[Request]) -> list[Response | RequestError]:
        """See `Model`."""
        read = [self._read_safely(request) for request in batch]
        items = [item for asked in read if isinstance(asked, _Asked) for item in asked.items]
        pending = [(item, row) for item in items for row in item.rows]
        # Neighbours of like length: less padding.
        pending.sort(key=lambda entry: entry[1]["input_ids"].shape[1])
        order: dict[int, Row] = {}
        for start in range(0, len(pending), MAX_ROWS):
            rows = [row for _, row in pending[start : start + MAX_ROWS]]
            for row, outputs in zip(rows, self._run(rows), strict=True):
                order[id(row)] = outputs
        for item in items:
            item.outputs = [order[id(row)] for row in item.rows]
        return [self._answer(asked) if isinstance(asked, _Asked) else asked for asked in read]

    def _read_safely(self, request: Request) -> _Asked | RequestError:
        try:
            return self._read(request)
        except RequestError as error:
            return error
        except Exception as error:  # noqa: BLE001  # fault line: around one request; tokenizers raise anything
            return RequestError(400, f"inputs: {error}")

    def _read(self, request: Request) -> _Asked:
        payload = read_payload(request)
        parameters = read_parameters(payload)
        unknown = sorted(set(parameters) - self._task.parameters)
        if unknown:
            known = ", ".join(sorted(self._task.parameters))
            raise RequestError(
                400, f"parameters.{unknown[0]}: unknown to {self._loaded.task}; known: {known}"
            )
        inputs = payload["inputs"] if "inputs" in payload else _without_inputs(payload)
        values = inputs if isinstance(inputs, list) else [inputs]
        if not values:
            raise RequestError(400, "inputs: the list is empty")
        items = [_Item(value, self._task.encode(value, parameters)) for value in values]
        for item in items:
            for row in item.rows:
                self._check_length(row["input_ids"].shape[1])
        return _Asked(parameters, items, isinstance(inputs, list))

    def _check_length(self, length: int) -> None:
        limit = min(self._loaded.max_tokens, self._loaded.tokenizer.model_max_length)
        if length > limit:
            raise RequestError(400, f"inputs: a text of {length} tokens; the model takes {limit}: shorten it")

    def _run(self, rows: list[Row]) -> list[Row]:
        """Run one call; return each row's own outputs."""
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in rows[0]]
        lengths = [row["input_ids"].shape[1] for row in rows]
        longest = max(lengths)
        filler = {"input_ids": self._loaded.tokenizer.pad_token_id}
        inputs = {
            name: torch.cat([_padded(row[name], longest, filler.get(name, 0)) for row in rows]).to(
                self._loaded.device
            )
            for name in names
        }
        with torch.inference_mode():
            outputs = self._loaded.model(**inputs)
        tensors = {key: value.float().cpu() for key, value in outputs.items() if torch.is_tensor(value)}
        return [
            {
                key: value[index : index + 1, :length]
                if value.dim() > 1 and value.shape[1] == longest and self._is_by_token(key)
                else value[index : index + 1]
                for key, value in tensors.items()
            }
            for index, length in enumerate(lengths)
        ]

    def _answer(self, asked: _Asked) -> Response | RequestError:
        try:
            found = [self._task.decode(item.rows, item.outputs, asked.parameters) for item in asked.items]
        except (ValueError, TypeError, KeyError) as error:
            return RequestError(400, f"parameters: {error}")
        value: Any = found if asked.is_list else found[0]
        if isinstance(value, dict) and self._loaded.task != "question-answering":
            value = [value]  # as transformers' pipelines answer a single text
        return Response(
            properties={"Content-Type": "application/json"}, parts=(Part("data", json_body(value)),)
        )

    def _is_by_token(self, key: str) -> bool:
        return key != "pooler_output" and self._loaded.task != "text-classification"


def build_pipeline(loaded: Transformer) -> PipelineModel:
    """Return the model that answers requests of a task."""
    task: TextTask
    if loaded.task == "question-answering":
        task = QuestionAnsweringTask(loaded)
    elif loaded.task == "text-embedding":
        task = EmbeddingTask(loaded)
    else:
        task = TransformersTask(loaded)
    return PipelineModel(loaded, task)


def _without_inputs(payload: dict[str, Any]) -> dict[str, Any]:
    """Return `question` and `context` (or `text` and `text_pair`) given without `inputs`."""
    rest = {key: value for key, value in payload.items() if key != "parameters"}
    if not rest:
        raise RequestError(400, 'inputs: missing; expected JSON such as {"inputs": "some text"}')
    return rest


def _padded(values: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, (0, missing), value=filler) if missing else values

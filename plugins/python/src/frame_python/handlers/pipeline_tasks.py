"""The tasks of transformers' own pipelines, and text embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frame_python.handlers.loading import Transformer

_PARAMETERS = {
    "text-classification": {"top_k", "function_to_apply", "truncation"},
    "token-classification": {"aggregation_strategy", "ignore_labels"},
    "fill-mask": {"top_k", "targets"},
    "feature-extraction": {"truncation"},
}
Row = dict[str, Any]


class TransformersTask:
    """A pipeline of transformers, with our batches between its two halves."""

    def __init__(self, loaded: Transformer) -> None:
        from transformers import pipeline

        self.parameters = frozenset(_PARAMETERS[loaded.task])
        self._task = loaded.task
        make: Any = pipeline
        self._pipe = make(loaded.task, model=loaded.model, tokenizer=loaded.tokenizer, device=loaded.device)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the row of one text (or `{"text", "text_pair"}` to classify)."""
        is_pair = isinstance(value, dict) and self._task == "text-classification"
        if not isinstance(value, str) and not is_pair:
            raise ValueError(f"expected a text, got {type(value).__name__}")
        before, _, _ = self._pipe._sanitize_parameters(**parameters)  # noqa: SLF001  # pipelines' way to extend
        found = self._pipe.preprocess(value, **before)
        if self._task == "token-classification":
            return list(found)
        return [dict(found)]

    def decode(self, rows: list[Row], outputs: list[Row], parameters: Mapping[str, Any]) -> Any:
        """Return what the pipeline gives for one text."""
        _, _, after = self._pipe._sanitize_parameters(**parameters)  # noqa: SLF001  # pipelines' way to extend
        if self._task == "feature-extraction":
            return outputs[0]["last_hidden_state"].tolist()
        merged = [{**row, **out} for row, out in zip(rows, outputs, strict=True)]
        if self._task == "text-classification" and "top_k" not in after:
            return self._pipe.postprocess(merged[0], top_k=1, **after)
        if self._task == "token-classification":
            return _plain(self._pipe.postprocess(merged, **after))
        return _plain(self._pipe.postprocess(merged[0], **after))


class EmbeddingTask:
    """One vector for each text: the mean of its tokens' states, or what `1_Pooling/config.json` says.

    `modules.json` with a Normalize module (both as sentence-transformers writes them) makes it a unit vector,
    and so does the parameter `normalize`.
    """

    parameters = frozenset({"normalize", "truncation"})

    def __init__(self, loaded: Transformer) -> None:
        self._loaded = loaded
        pooling = _read_json(loaded.folder / "1_Pooling" / "config.json", {})
        modules = _read_json(loaded.folder / "modules.json", [])
        self._takes_first = bool(pooling.get("pooling_mode_cls_token"))
        self._normalizes = any(str(module.get("type", "")).endswith("Normalize") for module in modules)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the row of one text."""
        if not isinstance(value, str):
            raise ValueError(f"expected a text, got {type(value).__name__}")  # noqa: TRY004  # the request's fault
        limit = min(self._loaded.max_tokens, self._loaded.tokenizer.model_max_length)
        truncates = bool(parameters.get("truncation"))
        row = self._loaded.tokenizer(
            value, return_tensors="pt", truncation=truncates, max_length=limit if truncates else None
        )
        return [dict(row)]

    def decode(self, rows: list[Row], outputs: list[Row], parameters: Mapping[str, Any]) -> list[float]:
        """Return the vector of one text."""
        del rows
        states: torch.Tensor = outputs[0]["last_hidden_state"][0]
        vector = states[0] if self._takes_first else states.mean(dim=0)
        if parameters.get("normalize", self._normalizes):
            vector = vector / vector.norm().clamp_min(1e-12)
        return [float(value) for value in vector]


def _plain(value: Any) -> Any:
    """Return JSON values: the pipelines leave numpy's numbers in their answers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default

"""Find the answer to a question in a text: transformers 5 has no pipeline for it any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from frame_python.handlers.loading import Transformer

MAX_ANSWER_TOKENS = 15
"""transformers 4's default, as are the two below."""
MAX_WINDOW = 384
STRIDE = 128
Row = dict[str, Any]


class QuestionAnsweringTask:
    """A long context is read in windows that overlap; the best span of all of them is the answer."""

    parameters = frozenset({"top_k", "max_answer_len"})

    def __init__(self, loaded: Transformer) -> None:
        self._tokenizer = loaded.tokenizer
        self._window = min(MAX_WINDOW, loaded.max_tokens, loaded.tokenizer.model_max_length)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the windows of `{"question": …, "context": …}`."""
        del parameters
        texts = [value.get(key) for key in ("question", "context")] if isinstance(value, dict) else []
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError('expected {"question": "some text", "context": "some text"}')
        asked = len(self._tokenizer(texts[0])["input_ids"])
        if asked >= self._window // 2:
            raise ValueError(
                f"the question has {asked} tokens; at most {self._window // 2} fit beside a context"
            )
        found = self._tokenizer(
            *texts,
            truncation="only_second",
            max_length=self._window,
            stride=min(STRIDE, (self._window - asked) // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = ("input_ids", "attention_mask", "token_type_ids")
        return [
            {
                **{name: torch.tensor([found[name][index]]) for name in names if name in found},
                "in_context": torch.tensor([part == 1 for part in found.sequence_ids(index)]),
                "offsets": found["offset_mapping"][index],
                "context": texts[1],
            }
            for index in range(len(found["input_ids"]))
        ]

    def decode(self, rows: list[Row], outputs: list[Row], parameters: Mapping[str, Any]) -> Any:
        """Return the best answer, `{"score", "start", "end", "answer"}`, or with `top_k` above 1 a list."""
        wanted = _whole(parameters.get("top_k", 1), "top_k")
        longest = _whole(parameters.get("max_answer_len", MAX_ANSWER_TOKENS), "max_answer_len")
        found: dict[tuple[int, int], float] = {}
        for row, out in zip(rows, outputs, strict=True):
            for score, begin, end in _spans(row["in_context"], out, longest, wanted):
                place = (row["offsets"][begin][0], row["offsets"][end][1])
                found[place] = max(score, found.get(place, 0.0))
        best = sorted(found.items(), key=lambda entry: -entry[1])[:wanted]
        answers = [
            {"score": score, "start": start, "end": end, "answer": rows[0]["context"][start:end]}
            for (start, end), score in best
        ]
        return answers if wanted > 1 else answers[0]


def _spans(in_context: torch.Tensor, outputs: Row, longest: int, wanted: int) -> list[tuple[float, int, int]]:
    """Return the best spans of one window: probability, first and last token."""
    begins, ends = (
        outputs[key][0].masked_fill(~in_context, -torch.inf).softmax(dim=-1)
        for key in ("start_logits", "end_logits")
    )
    scores = (begins[:, None] * ends[None, :]).triu().tril(longest - 1).flatten()
    top = scores.topk(min(wanted, scores.numel()))
    size = len(begins)
    return [
        (float(score), int(place) // size, int(place) % size)
        for score, place in zip(top.values, top.indices, strict=True)
    ]


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: expected a whole number >= 1")
    return value

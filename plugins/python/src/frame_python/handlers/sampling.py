"""Choose a sequence's next token from its logits, by its own parameters and its own generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from frame_python.handlers.parameters import Parameters


class Sampler:
    """One sequence's choice of tokens.

    Works on the CPU in float32 with a generator of its own, so that the tokens depend on the seed and on this
    sequence's logits alone: not on its neighbours, the device, or the rank. The penalty and the cuts are
    transformers' own.
    """

    def __init__(
        self, parameters: Parameters, *, seed: int, prompt_length: int, end_ids: Sequence[int]
    ) -> None:
        self._parameters = parameters
        self._prompt_length = prompt_length
        self._end_ids = list(end_ids)
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self._processors = _processors(parameters)
        self._is_plain = not parameters.samples and parameters.repetition_penalty == 1

    def takes_likeliest(self, produced: int) -> bool:
        """Tell whether the token after `produced` ones is simply the likeliest: no logits are needed then."""
        return self._is_plain and not self._may_not_end(produced)

    def choose(self, logits: torch.Tensor, ids: Sequence[int]) -> tuple[int, float]:
        """Return the next token and the log-probability that the model gave it, before penalty and cuts.

        Args:
            logits: [vocab], any device and dtype.
            ids: prompt and answer so far.
        """
        with torch.inference_mode():
            scores = logits.detach().to("cpu", torch.float32)[None]
            log_probs = scores.log_softmax(dim=-1)[0]
            scores = scores.clone()
            if self._may_not_end(len(ids) - self._prompt_length):
                scores[0, self._end_ids] = -torch.inf
            if self._processors:
                before = torch.tensor([list(ids)], dtype=torch.int64)
                for process in self._processors:
                    scores = process(before, scores)
            if self._parameters.samples:
                token = int(torch.multinomial(scores.softmax(dim=-1)[0], 1, generator=self._generator))
            else:
                token = int(scores[0].argmax())
            return token, float(log_probs[token])

    def _may_not_end(self, produced: int) -> bool:
        return bool(self._end_ids) and produced < self._parameters.min_new_tokens


def _processors(parameters: Parameters) -> list[Any]:
    """Return the steps from scores to scores, in the order of transformers' `generate`."""
    from transformers.generation import logits_process as steps

    found: list[Any] = []
    if parameters.repetition_penalty != 1:
        found.append(steps.RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty))
    if not parameters.samples:
        return found
    if parameters.temperature != 1:
        found.append(steps.TemperatureLogitsWarper(parameters.temperature))
    if parameters.top_k > 0:
        found.append(steps.TopKLogitsWarper(parameters.top_k))
    if parameters.top_p < 1:
        found.append(steps.TopPLogitsWarper(parameters.top_p))
    if parameters.typical_p < 1:
        found.append(steps.TypicalLogitsWarper(parameters.typical_p))
    return found

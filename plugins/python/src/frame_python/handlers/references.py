"""What a model says before anything is done to it: greedy tokens and their logits, without a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frame_python.handlers.verdicts import make_prompts

PROMPT_LENGTHS = (7, 12, 5, 17, 9)
"""Of a check's texts. Five: a slot that got the answer of one two or four slots away shows as well."""
NEW_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Texts and what the model before says after each of their tokens, from the end of the prompt on.

    Attributes:
        prompts: tokens of each prompt.
        tokens: the greedy tokens after it, as many for each text; none that ends a text.
        logits: float16 or float32 [texts, tokens, vocab], CPU; `logits[t, i]` is about `tokens[t][i]`.
    """

    prompts: list[list[int]]
    tokens: list[list[int]]
    logits: torch.Tensor

    @property
    def length(self) -> int:
        """How many tokens were generated after each prompt."""
        return int(self.logits.shape[1])

    def texts(self) -> list[tuple[list[int], list[int]]]:
        """Return each prompt with its greedy tokens."""
        return list(zip(self.prompts, self.tokens, strict=True))

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        from safetensors.torch import save_file

        tensors = {
            "logits": self.logits.half().contiguous(),
            "tokens": torch.tensor(self.tokens),
            "lengths": torch.tensor([len(prompt) for prompt in self.prompts]),
            "prompts": torch.tensor([token for prompt in self.prompts for token in prompt]),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote.

        Raises:
            OSError: there is no such file.
        """
        from safetensors.torch import load_file

        kept = load_file(path)
        ids = kept["prompts"].split(kept["lengths"].tolist())
        prompts = [prompt.tolist() for prompt in ids]
        return cls(prompts=prompts, tokens=kept["tokens"].tolist(), logits=kept["logits"].float())


def _ends_of_text(model: Any) -> list[int]:
    """Return the tokens that end a text."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [ends] if isinstance(ends, int) else list(ends or ())


def take_reference(
    model: Any, *, device: torch.device, has_time: Callable[[], bool], new_tokens: int = NEW_TOKENS
) -> Reference | None:
    """Let a model generate greedily: each token by a call with the whole text, nothing kept between calls.

    The texts are one batch, filled up on the right, where causal attention does not look.

    Args:
        has_time: asked before each token.

    Returns:
        None when there was no time for a single token.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    known = min(vocabulary, int(getattr(model.config.get_text_config(), "vocab_size", vocabulary)))
    prompts = make_prompts(known, PROMPT_LENGTHS)
    rows = torch.arange(len(prompts), device=device)
    ends = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = torch.zeros((len(prompts), max(PROMPT_LENGTHS) + new_tokens), dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    found: list[torch.Tensor] = []
    while len(found) < new_tokens and has_time():
        width = int(ends.max())
        filled = ids[:, :width]
        with torch.inference_mode():
            answer = model(input_ids=filled, attention_mask=torch.ones_like(filled), use_cache=False)
        last = answer.logits[rows, ends - 1].float()
        found.append(last.to("cpu", copy=True))
        last[:, _ends_of_text(model)] = float("-inf")  # `generate` would stop there
        ids[rows, ends] = last.argmax(dim=-1)
        ends += 1
    if not found:
        return None
    tokens = [ids[row, len(prompt) : len(prompt) + len(found)].tolist() for row, prompt in enumerate(prompts)]
    return Reference(prompts=prompts, tokens=tokens, logits=torch.stack(found, dim=1))

"""Run a reference's texts through a transformed model, token by token, and compare what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from frame_python.handlers.references import Reference
from frame_python.handlers.stepping import Stepper
from frame_python.handlers.verdicts import Compared, Position, make_prompts

_LENGTHS = (11, 5, 16, 8)
"""Tokens of the texts that encoders are compared on."""
Text = tuple[list[int], list[int]]
"""A prompt's tokens and the ones after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model says after each token of some texts.

    Attributes:
        logits: float32 [texts, tokens, vocab], CPU.
        tokens: what it chooses, as many for each text.
    """

    logits: torch.Tensor
    tokens: list[list[int]]


class Runner(Protocol):
    """One way in which a model is served: teacher-forced, in batches up to `largest`."""

    largest: int

    def run(self, texts: Sequence[Text], has_time: Callable[[], bool]) -> Said:
        """Run the texts as one batch until `has_time` says no; at least one token.

        All ranks of a group call this alike, and `has_time` must say the same on all of them.
        """
        ...


class StepRunner:
    """Slots of a stepper: as continuous batching serves."""

    def __init__(self, stepper: Stepper) -> None:
        self.largest = stepper.slots
        self._stepper = stepper

    def run(self, texts: Sequence[Text], has_time: Callable[[], bool]) -> Said:
        """See `Runner`."""
        stepper, slots = self._stepper, range(len(texts))
        first = [stepper.prefill(slot, texts[slot][0]).float().cpu() for slot in slots]
        logits, tokens = [torch.stack(first)], [[int(row.argmax()) for row in first]]
        for index in range(len(texts[0][1]) - 1):
            if not has_time():
                break
            stepper.begin(slots, {slot: texts[slot][1][index] for slot in slots})
            chosen = stepper.end()[0]
            tokens.append([chosen[slot] for slot in slots])
            logits.append(torch.stack([stepper.logits(slot).float().cpu() for slot in slots]))
        for slot in slots:
            stepper.release(slot)
        rows = [list(row) for row in zip(*tokens, strict=True)]
        return Said(logits=torch.stack(logits, dim=1), tokens=rows)


class GenerateRunner:
    """`model.generate` over a batch filled up on the left, as static batching serves."""

    def __init__(self, model: Any, *, device: torch.device, largest: int, pad: int) -> None:
        self.largest = largest
        self._model = model
        self._device = device
        self._pad = pad

    def run(self, texts: Sequence[Text], has_time: Callable[[], bool]) -> Said:
        """See `Runner`; asks for the time once: nothing ends `generate` at the same token on all ranks."""
        has_time()
        width = max(len(prompt) for prompt, _ in texts)
        ids = torch.full((len(texts), width), self._pad, dtype=torch.int64, device=self._device)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(texts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=self._device)
            mask[row, width - len(prompt) :] = 1
        teacher = _Teacher(torch.tensor([tokens for _, tokens in texts], device=self._device))
        count = teacher.tokens.shape[1]
        with torch.inference_mode(), self._without_defaults():
            self._model.generate(
                input_ids=ids, attention_mask=mask, logits_processor=[teacher], do_sample=False,
                max_new_tokens=count, pad_token_id=self._pad,
            )  # fmt: skip
        logits = torch.stack(teacher.seen, dim=1)
        return Said(logits=logits, tokens=logits.argmax(dim=-1).tolist())

    @contextmanager
    def _without_defaults(self) -> Iterator[None]:
        """Take away the model's defaults: a penalty, say, makes other tokens win than the model's choice."""
        import transformers

        inner = getattr(self._model, "module", self._model)
        new: Any = transformers.GenerationConfig
        kept, inner.generation_config = inner.generation_config, new()
        try:
            yield
        finally:
            inner.generation_config = kept


class _Teacher:
    """A logits processor that notes the logits and lets given tokens [texts, tokens] win, one a call."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        forced = torch.full_like(scores, float("-inf"))
        forced.scatter_(1, self.tokens[:, len(self.seen), None], 0.0)
        self.seen.append(scores.float().cpu())
        return forced


def compare_said(reference: Reference, said: Said) -> list[Compared]:
    """Compare a batch of which row r ran the reference's text r modulo their number."""
    batch, count = said.logits.shape[:2]
    return [
        Compared(
            batch=batch,
            slot=row,
            positions=tuple(
                compare_rows(
                    reference.logits[row % len(reference.prompts), :count].float(),
                    said.logits[row],
                    said.tokens[row],
                )
            ),
        )
        for row in range(batch)
    ]


def compare_rows(
    before: torch.Tensor, after: torch.Tensor, chosen: Sequence[int] | None = None
) -> list[Position]:
    """Compare logits row by row, float32 [rows, classes] both; a constant added to a row changes nothing.

    Args:
        chosen: the token of each row where the model chooses by itself; else the likeliest.

    Raises:
        ValueError: the shapes differ.
    """
    if before.shape != after.shape:
        message = f"logits {tuple(after.shape)} instead of {tuple(before.shape)}"
        raise ValueError(message)
    deviation = before.std(dim=-1).clamp_min(1e-12)
    difference = after - before
    difference = difference - difference.mean(dim=-1, keepdim=True)
    errors = difference.square().mean(dim=-1).sqrt() / deviation
    top = before.topk(min(2, before.shape[-1]), dim=-1)
    margins = (top.values[:, 0] - top.values[:, -1]) / deviation
    seen = after.argmax(dim=-1).tolist() if chosen is None else chosen
    columns = (top.indices[:, 0].tolist(), seen, margins.tolist(), errors.tolist())
    return [
        Position(expected=expected, seen=token, margin=margin, error=error)
        for expected, token, margin, error in zip(*columns, strict=True)
    ]


def encode_texts(model: Any, *, device: torch.device) -> list[torch.Tensor]:
    """Return what an encoder or classifier says of a text alone, then of several as one padded batch.

    Returns:
        float32 [positions, classes] on the CPU for each text alone and for each text of the batch.
    """
    known = int(model.config.get_text_config().vocab_size)
    prompts = make_prompts(known, _LENGTHS)
    with torch.inference_mode():
        return [said for group in ([prompts[0]], prompts) for said in _encode(model, group, device)]


def _encode(model: Any, group: list[list[int]], device: torch.device) -> list[torch.Tensor]:
    ids = torch.zeros((len(group), max(len(text) for text in group)), dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(group):
        ids[row, : len(text)] = torch.tensor(text, device=device)
        mask[row, : len(text)] = 1
    found: list[torch.Tensor] = []
    for output in model(input_ids=ids, attention_mask=mask, return_dict=True).values():
        if isinstance(output, torch.Tensor) and output.dim() in (2, 3) and output.shape[0] == len(group):
            found += [
                row[: len(text)].float().cpu() if output.dim() == 3 else row[None].float().cpu()  # noqa: PLR2004
                for row, text in zip(output, group, strict=True)
            ]
    return found

"""Compare a stepper with the model's own whole computation, teacher-forced."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from frame_python.handlers.stepping import Stepper, place_of

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
"""A token is right when its logit in the reference is as near to the best, as a share of the logits' standard
deviation: two computations of one model differ by rounding, and may order near-ties differently."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model itself computes.

    Attributes:
        ids: a prompt and the tokens after it, whatever they are.
        prompt_length: how many of `ids` are the prompt, >= 1.
        logits: float32 [len(ids) - prompt_length + 1, vocab], CPU: after the prompt and after each token.
    """

    ids: tuple[int, ...]
    prompt_length: int
    logits: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What came out.

    Attributes:
        compared: tokens that were compared.
        agreed: of these, those that are right.
        first: where the first wrong one was; "" without one.
    """

    compared: int
    agreed: int
    first: str = ""

    @property
    def is_full(self) -> bool:
        """Whether all tokens are right."""
        return self.compared > 0 and self.agreed == self.compared


def make_prompts(vocabulary: int, *, count: int = 4, seed: int = 0) -> list[tuple[int, ...]]:
    """Return texts of 5, 8, 11, … arbitrary tokens."""
    chance = random.Random(seed)  # noqa: S311  # test texts
    return [tuple(chance.randrange(vocabulary) for _ in range(5 + 3 * index)) for index in range(count)]


def references(model: Any, prompts: Sequence[Sequence[int]], steps: int = 8) -> list[Reference]:
    """Compute, by one call for each text and without a cache, what follows each of its last tokens.

    Args:
        prompts: texts; all but the last `steps` tokens of each (at least one) count as its prompt.
    """
    device, _ = place_of(model)
    found = []
    for ids in prompts:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0]
        start = max(1, len(ids) - steps)
        found.append(Reference(tuple(ids), start, logits[start - 1 :].float().cpu()))
    return found


def agreement(
    stepper: Stepper,
    expected: Sequence[Reference],
    *,
    slots: int,
    tolerance: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Agreement:
    """Feed the references' tokens to the first `slots` slots and compare what the stepper would choose.

    The slots are at different lengths and leave at different times, as in use; all are free again afterwards.

    Args:
        slots: how many slots run at once, >= 1: 1, and then the most there are.
        tolerance: see `_TOLERANCE`; by default that of `dtype`.
    """
    limit = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16]) if tolerance is None else tolerance
    given = {slot: expected[slot % len(expected)] for slot in range(slots)}
    result = _Counter(limit, slots)
    for slot, item in given.items():
        logits = stepper.prefill(slot, item.ids[: item.prompt_length], 0)
        result.compare(slot, 0, item, logits)
    step = 0
    while active := [slot for slot, item in given.items() if item.prompt_length + step < len(item.ids)]:
        tokens = [0] * stepper.slots
        positions = [0] * stepper.slots
        for slot in active:
            position = given[slot].prompt_length + step
            tokens[slot], positions[slot] = given[slot].ids[position], position
        logits = stepper.decode(tokens, positions, active)
        step += 1
        for slot in active:
            result.compare(slot, step, given[slot], logits[slot])
    for slot in given:
        stepper.release(slot)
    return Agreement(compared=result.compared, agreed=result.agreed, first=result.first)


class _Counter:
    def __init__(self, tolerance: float, slots: int) -> None:
        self._tolerance = tolerance
        self._slots = slots
        self.compared = self.agreed = 0
        self.first = ""

    def compare(self, slot: int, step: int, item: Reference, logits: torch.Tensor) -> None:
        reference = item.logits[step]
        chosen = int(logits.argmax())
        short_by = float(reference.max() - reference[chosen])
        # Written so that a NaN on either side is a disagreement.
        is_right = bool(torch.isfinite(logits).any()) and short_by <= self._tolerance * float(reference.std())
        self.compared += 1
        self.agreed += is_right
        if not is_right and not self.first:
            self.first = (
                f"slot {slot} of {self._slots}, token {step + 1} after a prompt of {item.prompt_length}: "
                f"{chosen} instead of {int(reference.argmax())}"
            )

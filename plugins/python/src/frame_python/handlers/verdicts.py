"""Judge whether a transformed model still says what the model before said: numbers in, verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal

Result = Literal["passed", "reduced", "not_run", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much a right transformation may change, in units of the spread of a position's logits.

    Attributes:
        margin: a token whose lead over the second is smaller is a near-tie and does not count.
        error: of a sequence's positions the median difference of the logits may be so large.
        disagreement: share of the tokens that count that may be others; 0 but for quantized weights.
    """

    margin: float
    error: float
    disagreement: float = 0.0


TOLERANCES: Mapping[str, Tolerance] = {
    # Sums in another order: 1e-6 with two layers, a few times that with thirty. A cache or a position that is
    # off by one shows from 1e-2 on, even in a model with random weights.
    "float32": Tolerance(margin=1e-3, error=1e-3),
    # DeepSpeed's injected GPT-J-6B differs by 2e-3.
    "float16": Tolerance(margin=5e-2, error=5e-2),
    "bfloat16": Tolerance(margin=2e-1, error=2e-1),
}
QUANTIZED = Tolerance(margin=5e-1, error=1.0, disagreement=0.1)
"""For int8 weights, which do change the model: the check then looks for a broken one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One token of the comparison.

    Attributes:
        expected, seen: what the model before and the transformed model choose.
        margin: lead of `expected` over the second, in standard deviations of the logits.
        error: root mean square difference of the logits in the same unit; NaN where one is not finite.
    """

    expected: int
    seen: int
    margin: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The positions of one sequence, and where it ran: in a batch of so many, in which slot."""

    batch: int
    slot: int
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a self-check found.

    Attributes:
        result: `reduced` is a pass that looked at less than the whole model.
        tokens: how many were compared, near-ties left out.
        seconds: how long it took.
        reason: why it is not `passed`; "" when it is.
        path: how the model was transformed.
    """

    result: Result
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""
    path: str = ""

    def plain(self) -> dict[str, object]:
        """Return it as plain JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def reduce(self, reason: str) -> Report:
        """Return a pass as `reduced`, with the reason; anything else unchanged."""
        return replace(self, result="reduced", reason=reason) if self.result == "passed" else self


def tolerance_for(dtype: str, *, is_quantized: bool) -> Tolerance:
    """Return the tolerance for weights of `dtype`: float32, float16 or bfloat16."""
    return QUANTIZED if is_quantized else TOLERANCES.get(dtype, TOLERANCES["bfloat16"])


def judge(sequences: Sequence[Compared], tolerance: Tolerance) -> Report:
    """Return `passed` or `failed` with the first thing that is wrong; `not_run` when nothing was compared."""
    if not any(sequence.positions for sequence in sequences):
        return Report(result="not_run", reason="no token was compared")
    counting = [(s, p) for s in sequences for p in s.positions if p.margin > tolerance.margin]
    wrong = [(s, p) for s, p in counting if p.seen != p.expected]
    if len(wrong) > tolerance.disagreement * len(counting):
        place = wrong[0][0]
        reason = (
            f"{len(counting) - len(wrong)} of {len(counting)} greedy tokens agree with the model before; "
            f"the first other one in slot {place.slot} of a batch of {place.batch}"
        )
        return Report(result="failed", tokens=len(counting), reason=reason)
    for sequence in sequences:
        errors = [position.error for position in sequence.positions]
        # `not <=` and not `>`: NaN fails. The median of several NaNs is none of the numbers.
        typical = median(errors) if all(error == error for error in errors) else float("nan")  # noqa: PLR0124
        if errors and not typical <= tolerance.error:
            reason = (
                f"the logits in slot {sequence.slot} of a batch of {sequence.batch} differ from those of the "
                f"model before by {typical:.2g} of their spread; {tolerance.error:.2g} is allowed"
            )
            return Report(result="failed", tokens=len(counting), reason=reason)
    return Report(result="passed", tokens=len(counting))


def make_prompts(vocabulary: int, lengths: Sequence[int]) -> list[list[int]]:
    """Return prompts of these lengths, always the same ones, tokens spread over the vocabulary.

    Args:
        vocabulary: tokens the model knows, >= 2.
    """
    state = 20221101
    prompts: list[list[int]] = []
    for length in lengths:
        prompt: list[int] = []
        for _ in range(length):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            prompt.append((state >> 33) % vocabulary)
        prompts.append(prompt)
    return prompts

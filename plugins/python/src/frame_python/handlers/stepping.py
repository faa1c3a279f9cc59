"""Steps of a causal language model over slots: prefill one sequence, one more token for those that run."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from frame_python.handlers.slot_cache import DecodeTarget, PrefillTarget, SlotCache

LENGTH_STEP = 64
"""Attention looks at a multiple of so many positions."""


class Stepper(Protocol):
    """Sequences in numbered slots. One thread makes all calls.

    Invariants: a slot's logits depend on that slot's tokens alone; positions are kept here, `prefill` sets
    them and `begin` advances them.
    """

    slots: int
    max_length: int

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> torch.Tensor:
        """Put tokens into a slot after the `start` that it holds already; 0 begins another sequence.

        Returns:
            Logits [vocab] on the model's device, after the last of them. The likeliest token among them is
            what the slot's next step takes, unless another is given.
        """
        ...

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """Put whole prompts into slots; `logits` has what follows each, until the next step is begun."""
        ...

    def begin(self, active: Sequence[int], tokens: Mapping[int, int] | None = None) -> None:
        """Begin a step of the slots `active`, each at its own next position.

        Args:
            tokens: slot -> token to take; other slots take the likeliest of their last logits.
        """
        ...

    def end(self) -> tuple[dict[int, int], dict[int, float]]:
        """Wait for the oldest step begun: slot -> likeliest token, slot -> its log-probability."""
        ...

    def logits(self, slot: int) -> torch.Tensor:
        """Return logits [vocab] of the slot's last step, valid until the next one is begun."""
        ...

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], active: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Take given tokens at given positions, [slots] both, in the slots `active` (None: all).

        Returns:
            Logits [slots, vocab]; rows of other slots mean nothing.
        """
        ...

    def release(self, slot: int) -> None:
        """Forget what a slot holds. Idempotent."""
        ...

    def close(self) -> None:
        """Leave the model as it was. Idempotent."""
        ...


class MakeStepper(Protocol):
    """How a stepper is made for a model, on the model's device."""

    def __call__(self, model: Any, *, slots: int, max_length: int) -> Stepper:
        """Return a stepper without sequences."""
        ...


class EagerStepper:
    """Steps operation by operation over a `SlotCache`: any model that takes positions and a 4D mask.

    The work of a step depends on the slots that take part: rows of the cache are exchanged so that those are
    the first ones, and attention looks no further than the longest of them.

    Invariants: slots and rows are a permutation of each other; keys and values never change their place.
    """

    def __init__(self, model: Any, *, slots: int, max_length: int) -> None:
        self.slots, self.max_length = slots, max_length
        self._model = model
        self._device, self._dtype = place_of(model)
        self._cache = SlotCache(slots, max_length)
        self._tokens = torch.zeros(slots, dtype=torch.int64, device=self._device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=self._device)
        self._latest: dict[int, torch.Tensor] = {}
        self._row = list(range(slots))
        self._filled = [0] * slots
        self._begun: deque[tuple[dict[int, int], torch.Tensor]] = deque()
        self._extra = {"logits_to_keep": 1} if _keeps_last_logits(model) else {}

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> torch.Tensor:
        """See `Stepper`."""
        with torch.inference_mode():
            end, row = start + len(ids), self._row[slot]
            positions = torch.arange(start, end, device=self._device)
            given = torch.tensor([list(ids)], dtype=torch.int64, device=self._device)
            self._cache.aim(PrefillTarget(row, start))
            logits = self._call(given, positions[None], causal_mask(positions, end, self._dtype)[None, None])[
                0
            ]
            self._filled[slot] = end
            self._tokens[row] = logits.argmax()
            self._latest[slot] = logits
            return logits

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """See `Stepper`."""
        for slot, ids in prompts.items():
            self.prefill(slot, ids)

    def begin(self, active: Sequence[int], tokens: Mapping[int, int] | None = None) -> None:
        """See `Stepper`."""
        with torch.inference_mode():
            count = len(active)
            self._bring_to_front(active)
            slots = sorted(active, key=lambda slot: self._row[slot])
            places = [self._filled[slot] for slot in slots]
            self._positions[:count].copy_(torch.tensor(places))
            for slot, token in (tokens or {}).items():
                self._tokens[self._row[slot]] = token
            length = min(self.max_length, LENGTH_STEP * (max(places) // LENGTH_STEP + 1))
            logits = self._step(self._tokens[:count], self._positions[:count], length)
            best = best_of(logits)
            self._tokens[:count].copy_(best[0])
            for slot in slots:
                self._filled[slot] += 1
                self._latest[slot] = logits[self._row[slot]]
            self._begun.append(({slot: self._row[slot] for slot in slots}, best))

    def end(self) -> tuple[dict[int, int], dict[int, float]]:
        """See `Stepper`."""
        rows, best = self._begun.popleft()
        tokens, log_probs = best.tolist()
        return {s: int(tokens[r]) for s, r in rows.items()}, {s: log_probs[r] for s, r in rows.items()}

    def logits(self, slot: int) -> torch.Tensor:
        """See `Stepper`."""
        return self._latest[slot]

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], active: Sequence[int] | None = None
    ) -> torch.Tensor:
        """See `Stepper`."""
        chosen = list(range(self.slots) if active is None else active)
        for slot in chosen:
            self._filled[slot] = int(positions[slot])
        return decode_now(self, tokens, chosen)

    def release(self, slot: int) -> None:
        """See `Stepper`."""
        self._filled[slot] = 0
        self._latest.pop(slot, None)

    def close(self) -> None:
        """See `Stepper`: the model was never changed."""

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
        """Compute logits [rows, vocab] from tokens and positions, int64 [rows]."""
        self._cache.aim(DecodeTarget(positions, length))
        mask = causal_mask(positions, length, self._dtype)[:, None, None]
        return self._call(tokens[:, None], positions[:, None], mask)

    def _call(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the last logits [rows, vocab] of ids [rows, new] under a mask [rows, 1, new, length]."""
        answer = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **self._extra,
        )
        logits: torch.Tensor = answer.logits
        return logits[:, -1]

    def _bring_to_front(self, active: Sequence[int]) -> None:
        """Exchange rows so that those of `active` are the first ones."""
        taken = {self._row[slot] for slot in active}
        free = (row for row in range(len(active)) if row not in taken)
        slot_at = {row: slot for slot, row in enumerate(self._row)}
        for slot in active:
            row = self._row[slot]
            if row < len(active):
                continue
            other = next(free)
            neighbour = slot_at[other]
            self._cache.exchange(row, other, max(self._filled[slot], self._filled[neighbour]))
            self._tokens[[row, other]] = self._tokens[[other, row]]
            self._row[slot], self._row[neighbour] = other, row


class SoloStepper:
    """Steps of one sequence after the other, each with the model's own growing cache.

    For architectures that cannot share static tensors: ALiBi, recurrent states, sliding windows.
    """

    def __init__(self, model: Any, *, slots: int, max_length: int) -> None:
        self.slots, self.max_length = slots, max_length
        self._model = model
        self._device = place_of(model)[0]
        self._caches: list[Any] = [None] * slots
        self._logits: list[torch.Tensor] = [torch.empty(0)] * slots
        self._begun: deque[dict[int, list[float]]] = deque()

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> torch.Tensor:
        """See `Stepper`."""
        if start == 0:
            self._caches[slot] = None
        self._logits[slot] = self._call(slot, ids)
        return self._logits[slot]

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """See `Stepper`."""
        for slot, ids in prompts.items():
            self.prefill(slot, ids)

    def begin(self, active: Sequence[int], tokens: Mapping[int, int] | None = None) -> None:
        """See `Stepper`."""
        given = tokens or {}
        for slot in active:
            token = given[slot] if slot in given else int(self._logits[slot].argmax())
            self._logits[slot] = self._call(slot, [token])
        best = best_of(torch.stack([self._logits[slot] for slot in active])).T.tolist()
        self._begun.append(dict(zip(active, best, strict=True)))

    def end(self) -> tuple[dict[int, int], dict[int, float]]:
        """See `Stepper`."""
        best = self._begun.popleft()
        return {slot: int(pair[0]) for slot, pair in best.items()}, {slot: p[1] for slot, p in best.items()}

    def logits(self, slot: int) -> torch.Tensor:
        """See `Stepper`."""
        return self._logits[slot]

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], active: Sequence[int] | None = None
    ) -> torch.Tensor:
        """See `Stepper`; the positions are those that the caches are at."""
        del positions
        return decode_now(self, tokens, list(range(self.slots) if active is None else active))

    def release(self, slot: int) -> None:
        """See `Stepper`."""
        self._caches[slot] = None

    def close(self) -> None:
        """See `Stepper`: the model was never changed."""

    def _call(self, slot: int, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            given = torch.tensor([list(ids)], dtype=torch.int64, device=self._device)
            answer = self._model(input_ids=given, past_key_values=self._caches[slot], use_cache=True)
        if getattr(answer, "past_key_values", None) is None:
            raise ValueError("the model keeps no cache")
        self._caches[slot] = answer.past_key_values
        logits: torch.Tensor = answer.logits
        return logits[0, -1]


def decode_now(stepper: Stepper, tokens: Sequence[int], active: Sequence[int]) -> torch.Tensor:
    """Step `active` slots by given tokens; return logits [slots, vocab]."""
    stepper.begin(active, {slot: int(tokens[slot]) for slot in active})
    stepper.end()
    with torch.inference_mode():
        blank = torch.zeros_like(stepper.logits(active[0]))
        found = {slot: stepper.logits(slot) for slot in active}
        return torch.stack([found.get(slot, blank) for slot in range(stepper.slots)])


def causal_mask(positions: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores: 0 up to each position, the lowest number after it.

    Args:
        positions: int64 [queries].

    Returns:
        `dtype` [queries, length], on the device of `positions`.
    """
    is_hidden = torch.arange(length, device=positions.device) > positions[:, None]
    return is_hidden.to(dtype) * torch.finfo(dtype).min


def best_of(logits: torch.Tensor) -> torch.Tensor:
    """Return float64 [2, rows]: the likeliest token of each row of [rows, vocab], and its log-probability.

    One tensor, so that it leaves the device in one copy; doubles hold every token's number.
    """
    with torch.inference_mode():
        scores = logits.float()
        top = scores.max(dim=-1)
        return torch.stack([top.indices.double(), (top.values - scores.logsumexp(dim=-1)).double()])


def place_of(model: Any) -> tuple[torch.device, torch.dtype]:
    """Return the device of a model and the dtype of its floating point weights."""
    first = next(model.parameters())
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return first.device, dtype


def _keeps_last_logits(model: Any) -> bool:
    """Tell whether the model computes the last logits alone when asked to."""
    inner = getattr(model, "module", model)
    return "logits_to_keep" in inspect.signature(inner.forward).parameters

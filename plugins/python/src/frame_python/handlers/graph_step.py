"""A `Stepper` whose steps are compiled and replayed as CUDA graphs; see `stepping`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from frame_python.handlers import compile_cache, fused_gptj
from frame_python.handlers.step_graphs import StepGraphs, choose_size
from frame_python.handlers.step_layers import CompiledLayers

IN_FLIGHT = 4
"""Steps that may be begun and not ended; each has its own page-locked buffers."""


class GraphStep:
    """Prefill and decode of one model over `slots` slots of `max_length` tokens.

    The work of a step depends on the slots that take part and on their longest text, not on all slots: rows
    of the cache are exchanged so that those are the first ones, and the smallest graph that holds them is
    replayed.

    Invariants:
        - Slots and rows are a permutation of each other; exchanging rows moves what they hold.
        - `_on_device` is what the device holds as columns once all that was begun has run.

    All calls come from one thread, on one stream.
    """

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        max_length: int,
        compile_layers: CompiledLayers | bool = True,
        capture: bool | None = None,
    ) -> None:
        """Allocate what the steps need on the model's device.

        Args:
            model: a causal language model of transformers, in `eval()`.
            slots: sequences that may run at once, >= 1.
            max_length: tokens of prompt and answer together that a slot holds, >= 1.
            compile_layers: whether its layers are compiled, or how.
            capture: replay CUDA graphs; None: when the model is on a CUDA device.

        Raises:
            ValueError: the model's layers are of several kinds, or are not found.
        """
        self.slots, self.max_length = slots, max_length
        self._graphs = StepGraphs(
            model, slots=slots, max_length=max_length, compile_layers=compile_layers, capture=capture
        )
        self.compile_seconds = 0.0
        """What `warm_up` took."""
        on_host = {"pin_memory": True} if self._graphs.device.type == "cuda" else {}
        self._given = [torch.zeros((2, slots), dtype=torch.int64, **on_host) for _ in range(IN_FLIGHT)]
        self._taken = [torch.zeros((2, slots), dtype=torch.float64, **on_host) for _ in range(IN_FLIGHT)]
        self._turn = 0
        self._on_device = [max_length] * slots
        self._row = list(range(slots))
        self._filled = [0] * slots
        self._begun: deque[tuple[dict[int, int], torch.Tensor, torch.cuda.Event | None]] = deque()

    def warm_up(self, batches: Sequence[int] | None = None, lengths: Sequence[int] | None = None) -> None:
        """Compile and capture everything, so that no request waits for it.

        Args:
            batches, lengths: sizes to prepare when not all; others are prepared on first use.
        """
        self.compile_seconds = self._graphs.warm_up(batches, lengths)

    def close(self) -> None:
        """Give the model back. Idempotent."""
        self._graphs.close()

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0) -> torch.Tensor:
        """Put prompt tokens into a slot after the `start` that it holds already.

        Returns:
            float32 [vocab] on the device: the logits after the last of them. The greedy token among them is
            what the slot's next step begins with, unless another is given.
        """
        largest = self._graphs.prompts[-1]
        for first in range(0, len(ids), largest):
            part = ids[first : first + largest]
            self._put([(slot, part, start + first)], choose_size(self._graphs.prompts, len(part)))
        return self.logits(slot).clone()

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """Put whole prompts into empty slots, short ones together; `logits` has what follows each."""
        waiting: dict[int, list[tuple[int, Sequence[int], int]]] = {}
        for slot, ids in prompts.items():
            if len(ids) > self._graphs.prompts[-1]:
                self.prefill(slot, ids)
            else:
                waiting.setdefault(choose_size(self._graphs.prompts, len(ids)), []).append((slot, ids, 0))
        for size, parts in waiting.items():
            together = self._graphs.together(size)
            for first in range(0, len(parts), together):
                self._put(parts[first : first + together], size)

    def _put(self, parts: Sequence[tuple[int, Sequence[int], int]], size: int) -> None:
        """Run one call for some (slot, at most `size` tokens, start)."""
        graphs = self._graphs
        batch = 1 if len(parts) == 1 else graphs.together(size)
        used = {self._row[slot] for slot, _, _ in parts}
        # Rows that fill the call up must be others: two that are the same would write the same place.
        spare = [row for row in range(self.slots) if row not in used][: batch - len(parts)]
        place = [(self._row[slot], start, len(ids)) for slot, ids, start in parts]
        place += [(row, 0, 0) for row in spare]
        tokens = [token for _, ids, _ in parts for token in (*ids, *[0] * (size - len(ids)))]
        for slot, ids, start in parts:
            self._filled[slot] = start + len(ids)
        length = choose_size(graphs.lengths, max(size, *(start + count for _, start, count in place)))
        step = graphs.filling(batch, size, length)
        with torch.inference_mode():
            graphs.prompt[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            graphs.place[:, :batch] = torch.tensor(place, dtype=torch.int64).T
            step()

    def begin(self, active: Sequence[int], tokens: Mapping[int, int] | None = None) -> None:
        """Begin a step of the slots `active`, each at its own next position.

        Args:
            active: slots that were filled and are not at `max_length`, in any order.
            tokens: slot -> token to go on with; others go on with the one that they chose last.
        """
        if len(self._begun) == IN_FLIGHT:
            raise RuntimeError("too many steps are begun: end one first")
        graphs = self._graphs
        length = choose_size(graphs.lengths, max(self._filled[slot] for slot in active) + 1)
        batch = choose_size(graphs.batches, len(active))
        step = graphs.decoding(batch, length)
        taken, event = self._taken[self._turn], None
        with torch.inference_mode():
            self._move_to_front(active, batch)
            self._give(active, tokens or {})
            step()
            taken.copy_(graphs.result, non_blocking=True)
        if graphs.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        self._begun.append(({slot: self._row[slot] for slot in active}, taken, event))
        self._turn = (self._turn + 1) % IN_FLIGHT
        for row, column in enumerate(self._on_device[:batch]):
            self._on_device[row] = min(column + 1, self.max_length)
        for slot in active:
            self._filled[slot] += 1

    def end(self) -> tuple[dict[int, int], dict[int, float]]:
        """Wait for the oldest step begun; return slot -> greedy token and slot -> its log-probability."""
        rows, taken, event = self._begun.popleft()
        if event is not None:
            event.synchronize()
        tokens, log_probs = taken.tolist()
        return {s: int(tokens[r]) for s, r in rows.items()}, {s: log_probs[r] for s, r in rows.items()}

    def logits(self, slot: int) -> torch.Tensor:
        """Return float32 [vocab] of the slot's last step, valid until the next one is begun."""
        return self._graphs.logits[self._row[slot]]

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], active: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Advance slots by the given tokens at the given positions, [slots] both; nothing may be in flight.

        Args:
            active: slots that take part, the others' numbers do not count; None: all.

        Returns:
            float32 [slots, vocab] on the device; rows of slots that took no part mean nothing.
        """
        chosen = list(range(self.slots) if active is None else active)
        for slot in chosen:
            self._filled[slot] = int(positions[slot])
        self.begin(chosen, {slot: int(tokens[slot]) for slot in chosen})
        self.end()
        return self._graphs.logits[self._row]

    def release(self, slot: int) -> None:
        """Forget what a slot holds. Idempotent."""
        self._filled[slot] = 0

    def _give(self, active: Sequence[int], tokens: Mapping[int, int]) -> None:
        """Tell the device columns and tokens, when they differ from what it goes on with by itself."""
        wanted = [self.max_length] * self.slots
        for slot in active:
            wanted[self._row[slot]] = self._filled[slot]
        if wanted == self._on_device and not tokens:
            return
        replaced = [-1] * self.slots
        for slot, token in tokens.items():
            replaced[self._row[slot]] = token
        # A buffer comes round again only after its step was ended, so that this copy has long been made.
        given = self._given[self._turn]
        given.copy_(torch.tensor([replaced, wanted]))
        self._graphs.control.copy_(given, non_blocking=True)
        self._on_device = wanted

    def _move_to_front(self, active: Sequence[int], batch: int) -> None:
        """Exchange rows so that those of `active` are among the first `batch`."""
        graphs = self._graphs
        taken = {self._row[slot] for slot in active}
        free = (row for row in range(batch) if row not in taken)
        slot_of = {row: slot for slot, row in enumerate(self._row)}
        for slot in active:
            row = self._row[slot]
            if row < batch:
                continue
            other = next(free)
            neighbour = slot_of[other]
            filled = max(self._filled[slot], self._filled[neighbour], 1)
            graphs.cache.swap(row, other, choose_size(graphs.lengths, filled))
            for kept in (graphs.tokens, graphs.logits):
                kept[[row, other]] = kept[[other, row]]
            self._row[slot], self._row[neighbour] = other, row


def graph_stepper(
    model: Any, *, slots: int, max_length: int, group: Any = None, shares_memory: bool = True
) -> GraphStep:
    """Return the fastest stepper for a model on a CUDA device, compiled and captured: a `MakeStepper`.

    What is compiled is kept in the user's cache folder (`compile_cache`), for the next start.

    Args:
        group: the ranks over which the model is cut; None: those that DeepSpeed's layers know.
        shares_memory: let ranks read each other's memory where their GPUs can; see `rank_sums`.

    Raises:
        ValueError: the model is none that this can step.
    """
    compile_cache.use(compile_cache.default_root(os.environ), compile_cache.gather_facts(), os.environ)
    fused_gptj.fuse(model, group, rows=slots if shares_memory else 0)
    step = GraphStep(model, slots=slots, max_length=max_length)
    step.warm_up()
    return step

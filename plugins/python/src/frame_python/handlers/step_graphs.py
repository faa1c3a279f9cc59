"""A language model's steps as functions of static tensors, compiled, and captured as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from frame_python.handlers import step_attention
from frame_python.handlers.step_cache import allocate
from frame_python.handlers.step_layers import CompiledLayers

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
PROMPTS = (16, 32, 64, 128, 256, 512)
TOGETHER = 8
"""Short prompts that are put into their slots by one call: it reads the weights once for all of them."""


def sizes_up_to(sizes: Iterable[int], largest: int) -> tuple[int, ...]:
    """Return the sizes below `largest`, and `largest` itself."""
    return (*(size for size in sizes if size < largest), largest)


def choose_size(sizes: Sequence[int], needed: int) -> int:
    """Return the first of the ascending `sizes` that is at least `needed`."""
    return next(size for size in sizes if size >= needed)


def _choose(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the greedy token of each row of float32 [rows, vocab], and its log-probability."""
    best, token = logits.max(dim=-1)
    return token, best - torch.logsumexp(logits, dim=-1)


class StepGraphs:
    """The static tensors of `slots` rows of `max_length` columns, and the steps that work on them.

    A step is made for each size that a call may have and replayed without a look at the host. Without capture
    the same functions are called directly.

    Attributes:
        control: int64 [2, slots]. A token that replaces the row's own, or -1; the column that the next step
            fills, or `max_length` for a row that takes no part: it writes where nobody reads.
        tokens: int64 [slots], the token that each row chose last: what its next step takes.
        prompt: int64, the tokens of a call of prompts, one after another, each filled up to the call's size.
        place: int64 [3, TOGETHER]: row, first column and number of tokens of each prompt.
        logits: float32 [slots, vocab], of each row's last step.
        result: float64 [2, slots]: greedy tokens and their log-probabilities, one copy for both.
    """

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        max_length: int,
        compile_layers: CompiledLayers | bool,
        capture: bool | None,
    ) -> None:
        """See `GraphStep`."""
        self.model, self.slots, self.max_length = model, slots, max_length
        parameter = next(model.parameters())
        self.device, self._dtype = parameter.device, parameter.dtype
        self._capture = self.device.type == "cuda" if capture is None else capture
        self.batches = sizes_up_to(BATCHES, slots)
        self.lengths = sizes_up_to(LENGTHS, max_length)
        self.prompts = sizes_up_to(PROMPTS, min(PROMPTS[-1], max_length))
        self._steps: dict[tuple[int, int, int], Callable[[], None]] = {}
        self._pool: Any = None
        self._layers: CompiledLayers | None = None
        self._choose: Callable[..., Any] = _choose
        self._restore = step_attention.use_in(model)
        with torch.inference_mode():
            self.cache = allocate(model, slots=slots, max_length=max_length)
            self._allocate()
        self._last: torch.Tensor | None = None
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._keep_last)
        if compile_layers:
            self._layers = (
                compile_layers if isinstance(compile_layers, CompiledLayers) else CompiledLayers(model)
            )
            self._layers.install()
            self._choose = torch.compile(_choose, dynamic=True)

    def _allocate(self) -> None:
        def whole(*shape: int, value: int = 0) -> torch.Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=self.device)

        self.control = whole(2, self.slots, value=-1)
        self.control[1] = self.max_length
        self.tokens = whole(self.slots)
        self.prompt = whole(max(self.prompts[-1], TOGETHER * PROMPTS[0]))
        self.place = whole(3, TOGETHER)
        size = self.model.get_output_embeddings().weight.shape[0]
        self.logits = torch.zeros((self.slots, size), device=self.device)
        self.result = torch.zeros((2, self.slots), dtype=torch.float64, device=self.device)
        self._columns = torch.arange(self.max_length, device=self.device)

    def close(self) -> None:
        """Give the model back as it was. Idempotent."""
        self._hook.remove()
        self._restore()
        self._steps.clear()
        if self._layers is not None:
            self._layers.remove()

    def _keep_last(self, head: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        """Give the head the hidden state of each row's last token alone: [batch, 1, embed]."""
        del head
        if self._last is None:
            return None
        (hidden,) = given
        return (hidden[torch.arange(hidden.shape[0], device=hidden.device), self._last][:, None],)

    def _forward(
        self, ids: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor, length: int
    ) -> torch.Tensor:
        """Run the model; ids and columns [batch, new]; returns float32 [batch, vocab]."""
        seen = self._columns[:length] <= columns[..., None]
        mask = torch.where(seen, 0.0, torch.finfo(self._dtype).min).to(self._dtype)[:, None]
        self.cache.rows, self.cache.positions, self.cache.length = rows, columns, length
        answer = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=columns.clamp(max=self.max_length - 1),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: torch.Tensor = answer.logits[:, -1].float()
        return logits

    def _decode(self, batch: int, length: int) -> None:
        """Advance the first `batch` rows by one token, greedily."""
        replaced, columns = self.control[0, :batch], self.control[1, :batch]
        ids = torch.where(replaced >= 0, replaced, self.tokens[:batch])
        logits = self._forward(ids[:, None], None, columns[:, None], length)
        token, log_prob = self._choose(logits)
        self.logits[:batch] = logits
        self.tokens[:batch] = token
        self.result[0, :batch] = token
        self.result[1, :batch] = log_prob
        replaced.fill_(-1)
        columns.copy_(torch.where(columns < self.max_length, columns + 1, columns))

    def _fill(self, batch: int, size: int, length: int) -> None:
        """Put up to `size` tokens into each of `batch` rows; the token that follows becomes the row's own."""
        row, start, count = (part[:batch] for part in self.place)
        offsets = torch.arange(size, device=self.device)
        columns = torch.where(offsets < count[:, None], start[:, None] + offsets, self.max_length)
        self._last = (count - 1).clamp(min=0)
        logits = self._forward(self.prompt[: batch * size].view(batch, size), row, columns, length)
        self._last = None
        token, _ = self._choose(logits)
        # A row without tokens fills the call up: it may be another sequence's, which goes on as it was.
        self.tokens[row] = torch.where(count > 0, token, self.tokens[row])
        self.logits[row] = torch.where(count[:, None] > 0, logits, self.logits[row])

    def together(self, size: int) -> int:
        """Return how many prompts of `size` tokens one call takes."""
        return min(TOGETHER, self.slots) if size * TOGETHER <= self.prompts[-1] else 1

    def warm_up(self, batches: Sequence[int] | None = None, lengths: Sequence[int] | None = None) -> float:
        """Compile and capture the steps of these sizes, or of all, the largest first; return the seconds."""
        began = time.monotonic()
        for length in sorted(lengths or self.lengths, reverse=True):
            for batch in sorted(batches or self.batches, reverse=True):
                self.decoding(batch, length)
            for size in reversed(self.prompts):
                for batch in {self.together(size), 1}:
                    if size <= length:
                        self.filling(batch, size, length)
        return time.monotonic() - began

    def decoding(self, batch: int, length: int) -> Callable[[], None]:
        """Return the step that advances the first `batch` rows, none of them beyond column `length`."""
        return self._step((batch, 0, length), partial(self._decode, batch, length))

    def filling(self, batch: int, size: int, length: int) -> Callable[[], None]:
        """Return the step that puts `prompt` where `place` says: `batch` times up to `size` tokens."""
        return self._step((batch, size, length), partial(self._fill, batch, size, length))

    def _step(self, key: tuple[int, int, int], body: Callable[[], None]) -> Callable[[], None]:
        """Return the step, made on first use: trial runs compile it, then it is captured."""
        if key not in self._steps:
            with torch.inference_mode(), self._on_no_row():
                self._steps[key] = self._captured(body) if self._capture else self._tried(body)
        return self._steps[key]

    @contextmanager
    def _on_no_row(self) -> Iterator[None]:
        """Let trial runs write to unread columns, and put the state of the slots back after them."""
        state = (self.control, self.tokens, self.place)
        saved = [kept.clone() for kept in state]
        self.control[0], self.control[1] = -1, self.max_length
        self.place.zero_()
        yield
        for kept, value in zip(state, saved, strict=True):
            kept.copy_(value)

    def _captured(self, body: Callable[[], None]) -> Callable[[], None]:
        """Run twice, so that nothing compiles or allocates any more, then capture."""
        current, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            body()
            body()
        current.wait_stream(side)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Thread-local: NCCL's watchdog asks its events in another thread, which a global capture forbids.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            body()
        replay: Callable[[], None] = graph.replay
        return replay

    def _tried(self, body: Callable[[], None]) -> Callable[[], None]:
        """Run once, so that it is compiled."""
        body()
        return body

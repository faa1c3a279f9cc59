"""The ways to run GPT-J's steps, each behind the same three calls."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch

PROMPT, CAPACITY = 32, 512
"""Tokens of each prompt, and the most that a sequence holds."""


class Eager:
    """transformers' own `generate`, one call for a batch of equal prompts."""

    def __init__(self, model: Any, slots: int) -> None:
        self.model, self.slots, self.load_seconds = model, slots, 0.0
        self.device = next(model.parameters()).device

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        """Return `new` greedy tokens for each prompt."""
        ids = torch.tensor(prompts, device=self.device)
        answer = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        return answer[:, ids.shape[1] :].tolist()

    def forced(
        self, prompt: Sequence[int], answer: Sequence[int], kept: list[Any] | None = None
    ) -> list[int]:
        """Return the token that is chosen at each place when the answer so far is `answer`'s.

        Args:
            kept: gets the logits of each place.
        """
        chosen, past = [], None
        fed = torch.tensor([prompt], device=self.device)
        for token in answer:
            out = self.model(input_ids=fed, past_key_values=past, use_cache=True)
            past = out.past_key_values
            chosen.append(int(out.logits[0, -1].argmax()))
            if kept is not None:
                kept.append(out.logits[0, -1].float().cpu())
            fed = torch.tensor([[token]], device=self.device)
        return chosen


class Inject(Eager):
    """DeepSpeed's kernels put in the place of the blocks, at batch 1.

    With transformers 5 a larger batch ends in an illegal memory access; the tokens are wrong at batch 1 too.
    """

    def __init__(self, model: Any, slots: int) -> None:
        began = time.monotonic()
        super().__init__(_deepspeed(model, inject=True), slots)
        self.generate([[1] * PROMPT], 4)
        self.load_seconds = time.monotonic() - began

    def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Compare through `generate`: its cache is its own, and a call by hand goes another way."""
        return self.generate([prompt], len(answer))[0]


def _deepspeed(model: Any, *, inject: bool) -> Any:
    """Return the model as DeepSpeed's inference engine makes it, at degree 1."""
    import deepspeed

    dtype = next(model.parameters()).dtype
    engine = deepspeed.init_inference(
        model,
        dtype=dtype,
        tensor_parallel={"tp_size": 1},
        replace_with_kernel_inject=inject,
        max_out_tokens=CAPACITY,
    )
    return engine.module


class Graph:
    """The step of `frame_python.handlers.graph_step`.

    Args:
        fuse: join GPT-J's products.
        single, several: compiler options in place of the handler's.
        quick: prepare what this benchmark needs, and not every size.
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        *,
        fuse: bool = True,
        quick: bool = False,
        compiled: bool = True,
        single: dict[str, Any] | None = None,
        several: dict[str, Any] | None = None,
        group: Any = None,
    ) -> None:
        from frame_python.handlers import compile_cache, fused_gptj
        from frame_python.handlers.graph_step import GraphStep
        from frame_python.handlers.step_layers import CompiledLayers

        began = time.monotonic()
        root = compile_cache.default_root(os.environ)
        compile_cache.use(root, compile_cache.gather_facts(), os.environ)
        if fuse:
            fused_gptj.fuse(model, group)
        layers = CompiledLayers(model, single=single, several=several) if compiled else False
        self.step = GraphStep(model, slots=slots, max_length=CAPACITY, compile_layers=layers)
        wanted = [b for b in (1, 8, 32) if b <= slots]
        self.step.warm_up(*((wanted, [256]) if quick else ()))
        self.load_seconds = time.monotonic() - began

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        """Return `new` greedy tokens for each prompt; the host's part of a step runs beside the next one."""
        slots = range(len(prompts))
        self.step.prefill_many(dict(enumerate(prompts)))
        answers = [[int(self.step.logits(slot).argmax())] for slot in slots]
        if new > 1:
            self.step.begin(slots)
        for index in range(1, new):
            if index + 1 < new:
                self.step.begin(slots)
            tokens, _ = self.step.end()
            for slot in slots:
                answers[slot].append(tokens[slot])
        return answers

    def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Return the token that is chosen at each place when the answer so far is `answer`'s."""
        chosen = [int(self.step.prefill(0, prompt).argmax())]
        for token in answer[:-1]:
            self.step.begin([0], {0: token})
            chosen.append(self.step.end()[0][0])
        return chosen

    def forced_together(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Do the same with all slots in use: the prompts again and again."""
        which = [slot % len(prompts) for slot in range(self.step.slots)]
        self.step.prefill_many({slot: prompts[index] for slot, index in enumerate(which)})
        chosen = [[int(self.step.logits(slot).argmax())] for slot in range(self.step.slots)]
        for place in range(len(answers[0]) - 1):
            self.step.begin(
                range(self.step.slots), {slot: answers[index][place] for slot, index in enumerate(which)}
            )
            for slot, token in self.step.end()[0].items():
                chosen[slot].append(token)
        return chosen


def autotp_graph(model: Any, slots: int, *, quick: bool) -> Graph:
    """Return the graph of a one-rank AutoTP group, its all-reduce inside."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29571")
    import deepspeed

    deepspeed.init_distributed()
    sharded = _deepspeed(model, inject=False)
    return Graph(sharded, slots, quick=quick, group=torch.distributed.group.WORLD)


def make_path(name: str, model: Any, slots: int, *, quick: bool) -> Any:
    """Return the path called `name`."""
    if name == "eager":
        return Eager(model, slots)
    if name == "inject":
        return Inject(model, slots)
    if name == "autotp-graph":
        return autotp_graph(model, slots, quick=quick)
    plain: dict[str, Any] = {}
    tuned = {"max_autotune": True}
    variants: dict[str, dict[str, Any]] = {
        "graph": {},
        "graph-unfused": {"fuse": False},
        "graph-tuned": {"single": tuned},
        "graph-tuned-all": {"several": tuned},
        "graph-plain": {"single": plain},
        "graph-again": {},
        "graph-uncompiled": {"compiled": False, "fuse": False},
    }
    return Graph(model, slots, quick=quick, **variants[name])

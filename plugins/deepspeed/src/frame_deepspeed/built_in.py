"""Serve a model of transformers without code: cut it over the ranks, check it, build what answers."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from frame.api import EngineContext, Model, ModelSpec
from frame_python.answers import is_out_of_memory
from frame_python.handlers.built_in import build_model
from frame_python.handlers.loading import (
    Transformer,
    choose_dtype,
    load_transformer,
    model_folder,
    torch_device,
)
from frame_python.handlers.options import TransformersOptions, transformers_options
from frame_python.handlers.replays import GenerateRunner, Runner, StepRunner
from frame_python.handlers.self_check import SelfCheck, SelfCheckError
from frame_python.handlers.stepping import EagerStepper, MakeStepper, SoloStepper, place_of
from frame_python.handlers.text_generation import TextGenerationModel
from frame_python.handlers.verdicts import Report

from frame_deepspeed.checking import (
    check_settings,
    explain_broken,
    explain_failure,
    int8_option,
    refuse_what_is_missing,
)
from frame_deepspeed.collectives import join_ranks, own_device
from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.placing import loads_on_device, weights_bytes
from frame_deepspeed.sharding import ShardSettings, candidate_paths, read_config, shard

_log = logging.getLogger(__name__)


Transform = Callable[[Any, ShardSettings], Any]
"""What is done to a model: see `shard`."""


def load_built_in(spec: ModelSpec, context: EngineContext, *, transform: Transform = shard) -> Model:
    """Load the model of a folder on this rank; all ranks of the group call it alike.

    Args:
        transform: what is done to the model, for each path that is tried.

    Raises:
        ValueError: an option or a file is wrong, or the transformed model is not what it was before.
    """
    options: DeepSpeedOptions = spec.options
    refuse_what_is_missing(options)
    device = torch_device(own_device(context.devices, os.environ))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before the ranks join: NCCL takes the current one
    join_ranks(context.world_size)
    quantize = int8_option(options)
    paths = candidate_paths(
        "eager" if quantize else options.path,
        injects=options.replace_with_kernel_inject,
        on_gpu=any(device.startswith("gpu") for device in context.devices),
        falls_back=options.on_self_check == "fallback",
    )
    for path, following in zip(paths, (*paths[1:], None), strict=True):
        try:
            return _Load(spec, context, path, device, transform).run()
        except SelfCheckError as error:
            if following is None:
                raise ValueError(
                    explain_failure(error.report, path, degree=context.world_size, quantize=quantize)
                ) from error
            _log.warning(
                "self_check_falls_back model=%s from=%s to=%s reason=%r",
                spec.name, path, following, error.report.reason,
            )  # fmt: skip
        gc.collect()  # the model that was given up, before the next one is loaded
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise AssertionError(paths)


@dataclass(slots=True)
class _Load:
    """One attempt: one path, from the folder to what answers."""

    spec: ModelSpec
    context: EngineContext
    path: str
    device: torch.device
    transform: Transform
    check: SelfCheck | None = field(default=None, init=False)

    def run(self) -> Model:
        """Load, transform, check.

        Raises:
            SelfCheckError: what would be served does not agree with the model before.
        """
        options = transformers_options(self.spec.options)
        if self.path == "inject":
            # The kernels keep keys and values themselves, of one batch that begins and ends together.
            options = replace(options, rolling_batch="disable")
        if options.dtype == "int8":
            options = replace(options, dtype=None)  # of what is not quantized, and of what is computed
        place = self._choose_place(options)
        if place != self.device:  # there, dtype would be chosen for the processor
            name = str(choose_dtype(options.dtype, self.device)).removeprefix("torch.")
            options = replace(options, dtype=name)
        loaded = load_transformer(
            options,
            self.spec.path,
            place,
            is_max_tokens_set="max_tokens" in self.spec.properties,
            prepare=lambda before: self._prepare(replace(before, device=self.device), options),
        )
        loaded = replace(loaded, device=self.device)
        try:
            model = self._build(loaded, options)
            if self.path == "inject":
                size_workspace(loaded, self._largest())
            if self.check is not None:
                self.context.enter_stage("self-check", float(self.spec.options.self_check_timeout))
            report = self._look_after(model, loaded)
        except RuntimeError as error:
            if self.context.world_size == 1 or is_out_of_memory(error):
                raise
            raise ValueError(explain_broken(error, loaded.model, self.context.world_size)) from error
        model.self_check = report.plain()
        return model

    def _choose_place(self, options: TransformersOptions) -> torch.device:
        """Return where the whole model is loaded."""
        is_on_gpu = self.device.type == "cuda"
        is_on_device = loads_on_device(
            degree=self.context.world_size,
            is_on_gpu=is_on_gpu,
            is_half=choose_dtype(options.dtype, self.device) is torch.float16,
            weights=weights_bytes(model_folder(options, self.spec.path)),
            free=torch.cuda.mem_get_info(self.device)[0] if is_on_gpu else 0,
        )
        return self.device if is_on_device else torch.device("cpu")

    def _build(self, loaded: Transformer, options: TransformersOptions) -> Model:
        return build_model(
            loaded,
            options,
            batch_size=self.spec.batch_size,
            steppers=_steppers(self.path, self.device, self.spec.options.all_reduce),
        )

    def _prepare(self, before: Transformer, options: TransformersOptions) -> Any:
        """Take the reference of the model before, then transform it."""
        settings = self._shard_settings(before)
        if self.spec.options.on_self_check != "off":
            self.check = self._look_before(before, options, settings)
        return self.transform(before.model, settings)

    def _shard_settings(self, before: Transformer) -> ShardSettings:
        options: DeepSpeedOptions = self.spec.options
        degree = self.context.world_size
        config_path = options.deepspeed_config_path
        return ShardSettings(
            degree=degree,
            kernel_inject=self.path == "inject",
            max_tokens=before.max_tokens,
            enable_cuda_graph=options.enable_cuda_graph,
            triangular_masking=options.triangular_masking,
            return_tuple=options.return_tuple,
            training_mp_size=options.training_mp_size,
            quantize=int8_option(options) is not None,
            config=read_config(config_path, folder=self.spec.path, degree=degree) if config_path else None,
        )

    # --- the self-check -------------------------------------------------------------------------

    def _look_before(
        self, before: Transformer, options: TransformersOptions, settings: ShardSettings
    ) -> SelfCheck | None:
        """Begin a check; None when nothing is done to the model, or the task has no check."""
        if settings.does_nothing() and self.path == "eager":
            return None
        if before.task == "text2text-generation":
            return None
        check = SelfCheck(check_settings(self.spec, self.context, self.path, before))
        if before.task != "text-generation":
            check.look_before_encoder(before.model, device=before.device)
            return check

        def build(cut: Any) -> Runner:
            loaded = replace(before, model=self.transform(cut, settings).to(before.device))
            return self._runner(self._build(loaded, options), loaded)

        fits = place_of(before.model)[0] == before.device  # else it was too large for it
        check.look_before(
            before.model, device=before.device, fits=fits, build=build, max_length=before.max_tokens
        )
        return check

    def _look_after(self, model: Model, loaded: Transformer) -> Report:
        if self.check is None:
            return self._unchecked(loaded)
        if loaded.task == "text-generation":
            return self.check.look_after(self._runner(model, loaded))
        return self.check.look_after_encoder(loaded.model, device=loaded.device)

    def _unchecked(self, loaded: Transformer) -> Report:
        why = "nothing was done to the model"
        if self.spec.options.on_self_check == "off":
            why = "option.on_self_check=off"
        elif loaded.task == "text2text-generation":
            why = f"there is none for the task {loaded.task}"
        if self.context.rank == 0:
            _log.info("self_check model=%s result=not_run reason=%r", self.spec.name, why)
        return Report(result="not_run", reason=why, path=self.path)

    def _largest(self) -> int:
        """Return how many texts a batch may have where requests do not join a running one."""
        if self.path != "inject":
            return self.spec.batch_size
        # A request may bring a list of texts.
        return max(self.spec.batch_size, transformers_options(self.spec.options).max_rolling_batch_size)

    def _runner(self, model: Model, loaded: Transformer) -> Runner:
        """Return the way in which `model` runs its texts."""
        if isinstance(model, TextGenerationModel):
            return StepRunner(model.stepper)  # the very one that will serve
        return GenerateRunner(
            loaded.model,
            device=loaded.device,
            largest=self._largest(),
            pad=loaded.tokenizer.pad_token_id,
        )


def size_workspace(loaded: Transformer, rows: int) -> None:
    """Run the largest batch once, as the first call: DeepSpeed's kernels size their memory by it.

    A larger batch after a smaller one gets wrong text, and an illegal memory access in the end.
    """
    ids = torch.full((rows, 2), loaded.tokenizer.pad_token_id, dtype=torch.int64, device=loaded.device)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        if loaded.task == "text-generation":
            loaded.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=1, do_sample=False)
        else:
            loaded.model(input_ids=ids, attention_mask=mask)


def _steppers(path: str, device: torch.device, all_reduce: str) -> tuple[MakeStepper, ...]:
    """Return the ways to run a language model, best first."""
    if path != "graph":
        return EagerStepper, SoloStepper
    from frame_python.handlers.graph_step import GraphStep, graph_stepper

    # Compiling for a CPU takes minutes and gains nothing.
    compiled: MakeStepper = (
        partial(graph_stepper, shares_memory=all_reduce == "auto")
        if device.type == "cuda"
        else partial(GraphStep, compile_layers=False)
    )
    return compiled, EagerStepper, SoloStepper

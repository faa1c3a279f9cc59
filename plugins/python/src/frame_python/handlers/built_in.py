"""Load a model folder without a handler of its own: text generation, or another task of transformers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from frame.api import EngineContext, Model, ModelSpec, RequestError

from frame_python.answers import is_out_of_memory
from frame_python.handlers.agreement import Reference, agreement, make_prompts, references
from frame_python.handlers.loading import Prepare, Transformer, load_transformer, torch_device
from frame_python.handlers.options import TransformersOptions, transformers_options
from frame_python.handlers.schema import GenerationSchema
from frame_python.handlers.stepping import EagerStepper, MakeStepper, SoloStepper, Stepper
from frame_python.handlers.text_generation import GenerationLimits, TextGenerationModel

_log = logging.getLogger(__name__)
_PREFILL_TOKENS = {"cpu": 64, "cuda": 512}
"""Prompt tokens between two steps: tenths of a second on few cores, milliseconds on an accelerator."""


def load_built_in(spec: ModelSpec, context: EngineContext, *, prepare: Prepare | None = None) -> Model:
    """Load the model of a folder and return what answers its requests.

    Raises:
        ValueError: an option or a file is wrong; says which and what to do.
        RequestError: 507, memory ran out.
    """
    options = transformers_options(spec.options)
    device = torch_device(context.devices[0] if context.devices else "cpu")
    loaded = load_transformer(
        options, spec.path, device, is_max_tokens_set="max_tokens" in spec.properties, prepare=prepare
    )
    return build_model(loaded, options, batch_size=spec.batch_size)


def build_model(
    loaded: Transformer,
    options: TransformersOptions,
    *,
    batch_size: int = 1,
    steppers: Sequence[MakeStepper] | None = None,
) -> Model:
    """Return the model that answers requests of the task.

    Args:
        steppers: ways to run a causal language model, best first; each is compared with the model itself
            before it is used. Default: `default_steppers`.
    """
    if loaded.task == "text-generation" and uses_rolling_batch(options, batch_size):
        chosen = default_steppers(loaded.device) if steppers is None else steppers
        return build_text_generation(loaded, options, chosen)
    if loaded.task in {"text-generation", "text2text-generation"}:
        from frame_python.handlers.static_generation import StaticGenerationModel

        return StaticGenerationModel(loaded)
    from frame_python.handlers.pipelines import build_pipeline

    return build_pipeline(loaded)


def default_steppers(device: torch.device) -> tuple[MakeStepper, ...]:
    """Return the ways to run a language model on a device, best first."""
    if device.type != "cuda":
        return EagerStepper, SoloStepper
    from frame_python.handlers.graph_step import graph_stepper

    return graph_stepper, EagerStepper, SoloStepper


def uses_rolling_batch(options: TransformersOptions, batch_size: int) -> bool:
    """Tell whether texts join and leave a running batch."""
    return options.rolling_batch.lower() not in {"disable", "false", ""} and batch_size <= 1


def build_text_generation(
    loaded: Transformer, options: TransformersOptions, steppers: Sequence[MakeStepper]
) -> TextGenerationModel:
    """Return continuous batching over the first stepper that agrees with the model.

    Raises:
        ValueError: none does.
    """
    special = frozenset(loaded.tokenizer.all_special_ids)
    schema = GenerationSchema.of(options, special)
    limits = GenerationLimits(
        max_tokens=loaded.max_tokens,
        prefill_tokens=_PREFILL_TOKENS.get(loaded.device.type, _PREFILL_TOKENS["cuda"]),
        runs_ahead=loaded.device.type == "cuda",
        end_ids=end_ids(loaded.model, loaded.tokenizer),
    )
    stepper = choose_stepper(loaded, options.max_rolling_batch_size, steppers)
    return TextGenerationModel(stepper, loaded.tokenizer, schema, limits)


def choose_stepper(loaded: Transformer, slots: int, steppers: Sequence[MakeStepper]) -> Stepper:
    """Return the first stepper whose tokens are the model's own, alone and in all slots at once.

    Raises:
        ValueError: none is right.
    """
    reasons = []
    # Of the model as it is, before a stepper changes it.
    prompts = make_prompts(loaded.model.config.get_text_config().vocab_size)
    expected = references(loaded.model, [prompt[: loaded.max_tokens] for prompt in prompts], steps=6)
    for make in steppers:
        name = getattr(getattr(make, "func", make), "__name__", repr(make))  # a partial has its function's
        started = time.monotonic()
        found = _try_stepper(make, loaded, slots, expected)
        if not isinstance(found, str):
            seconds = time.monotonic() - started
            _log.info("stepper_chosen kind=%s slots=%d seconds=%.2f", name, slots, seconds)
            return found
        reasons.append(f"{name}: {found}")
        _log.warning("stepper_unfit kind=%s model=%s reason=%r", name, type(loaded.model).__name__, found)
    raise ValueError(
        f"{type(loaded.model).__name__} cannot run token by token ({'; '.join(reasons)}); "
        "set option.rolling_batch=disable"
    )


def _try_stepper(
    make: MakeStepper, loaded: Transformer, slots: int, expected: Sequence[Reference]
) -> Stepper | str:
    """Return a stepper that agrees with the model, alone and in all slots at once, or why there is none."""
    reason = _reason_against(make, loaded)
    if reason:
        return reason
    stepper: Stepper | None = None
    try:
        stepper = make(loaded.model, slots=slots, max_length=loaded.max_tokens)
        reason = _disagreement(stepper, expected, loaded)
    except Exception as error:
        if is_out_of_memory(error):
            raise RequestError(
                507,
                f"no memory for {slots} texts of {loaded.max_tokens} tokens: lower "
                f"option.max_rolling_batch_size or option.max_tokens; {error}",
                type_name="OutOfMemoryError",
            ) from error
        reason = f"{type(error).__name__}: {error}"
    if stepper is None or not reason:
        return stepper or reason
    stepper.close()
    return reason


def _reason_against(make: MakeStepper, loaded: Transformer) -> str:
    """Say why static slots cannot hold this model's state, where no comparison would show it."""
    if make is SoloStepper:
        return ""
    config = loaded.model.config
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and window < loaded.max_tokens and getattr(config, "use_sliding_window", True):
        return f"attention looks at the last {window} tokens only (option.max_tokens={loaded.max_tokens})"
    return ""


def _disagreement(stepper: Stepper, expected: Sequence[Reference], loaded: Transformer) -> str:
    for slots in dict.fromkeys((1, stepper.slots)):
        found = agreement(stepper, expected, slots=slots, dtype=loaded.dtype)
        if not found.is_full:
            return f"{found.compared - found.agreed} of {found.compared} tokens are wrong: {found.first}"
    return ""


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text: of the generation settings, the configuration, the tokenizer."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        found |= (
            set(value) if isinstance(value, (list, tuple)) else {value} if isinstance(value, int) else set()
        )
    return frozenset(found)

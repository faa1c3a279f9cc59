"""Load a model folder without a handler of its own: text generation, or another task of transformers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from frame.api import EngineContext, Model, ModelSpec

from frame_python.answers import is_out_of_memory
from frame_python.handlers.agreement import agreement, make_prompts, references
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
    steppers: Sequence[MakeStepper] = (EagerStepper, SoloStepper),
) -> Model:
    """Return the model that answers requests of the task.

    Args:
        steppers: ways to run a causal language model, best first; each is compared with the model itself
            before it is used.
    """
    if loaded.task == "text-generation" and uses_rolling_batch(options, batch_size):
        return build_text_generation(loaded, options, steppers)
    if loaded.task in {"text-generation", "text2text-generation"}:
        from frame_python.handlers.static_generation import StaticGenerationModel

        return StaticGenerationModel(loaded)
    from frame_python.handlers.pipelines import build_pipeline

    return build_pipeline(loaded)


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
    expected = None
    for make in steppers:
        name = getattr(make, "__name__", repr(make))
        started = time.monotonic()
        reason = _reason_against(make, loaded)
        if not reason:
            expected = expected or _expected(loaded)
            try:
                stepper = make(loaded.model, slots=slots, max_length=loaded.max_tokens)
                reason = _disagreement(stepper, expected, loaded)
            except Exception as error:  # fault line: around a model's own code
                if is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        if not reason:
            _log.info("stepper_chosen kind=%s slots=%d seconds=%.2f", name, slots, seconds)
            return stepper
        reasons.append(f"{name}: {reason}")
        _log.warning("stepper_unfit kind=%s model=%s reason=%r", name, type(loaded.model).__name__, reason)
    raise ValueError(
        f"{type(loaded.model).__name__} cannot run token by token ({'; '.join(reasons)}); "
        "set option.rolling_batch=disable"
    )


def _reason_against(make: MakeStepper, loaded: Transformer) -> str:
    """Say why static slots cannot hold this model's state, where no comparison would show it."""
    if make is SoloStepper:
        return ""
    config = loaded.model.config
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and window < loaded.max_tokens and getattr(config, "use_sliding_window", True):
        return f"attention looks at the last {window} tokens only (option.max_tokens={loaded.max_tokens})"
    return ""


def _expected(loaded: Transformer) -> list[Any]:
    prompts = make_prompts(loaded.model.config.get_text_config().vocab_size)
    short = [prompt[: loaded.max_tokens] for prompt in prompts]
    return references(loaded.model, short, steps=6)


def _disagreement(stepper: Stepper, expected: list[Any], loaded: Transformer) -> str:
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

"""Import an engine and load its model, stage by stage."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Container
from typing import Any

from frame.contract.models import Engine, EngineContext, Model, ModelSpec, SequenceModel, TensorModel
from frame.contract.options import option_keys, parse_options
from frame.contract.signatures import TensorSpec
from frame.wire.messages import LoadedHead, LoadHead, SpecHead
from frame.wire.padding import Padding
from frame.worker.memory import resident_bytes


def load_model(head: LoadHead, enter_stage: Callable[[str, float], None]) -> tuple[Engine, Model]:
    """Load what the router asked for, with the model directory as current directory.

    Raises:
        Exception: of the engine, or of importing it.
    """
    os.chdir(head.path)
    enter_stage("import engine", 0.0)
    options_type, engine_type = resolve(head.options_target), resolve(head.engine_target)
    enter_stage("create engine", 0.0)
    context = EngineContext(
        devices=tuple(head.devices),
        rank=head.rank,
        world_size=head.world_size,
        threads=head.threads,
        slots=1 if head.shares_model is False or head.world_size > 1 else head.max_slots,
        enter_stage=enter_stage,
    )
    engine: Engine = engine_type(context)
    sys.path.insert(0, head.path)  # only now: a model's torch.py must not hide the framework from the engine
    enter_stage("load model", 0.0)
    model = engine.load(_spec_of(head, options_type))
    if isinstance(model, TensorModel):
        _prepare_tensors(model, head, engines_own=option_keys(options_type))
    return engine, model


def most_slots(head: LoadHead, model: Model) -> int:
    """Return how many batches may overlap on this copy: the model's answer, unless the router forces it."""
    if isinstance(model, SequenceModel) or head.shares_model is False or head.world_size > 1:
        return 1
    return max(1, head.max_slots if head.shares_model else min(head.max_slots, model.concurrency))


def loaded_head(model: Model, *, slots: int, most: int, seconds: dict[str, float]) -> LoadedHead:
    """Return what the router is told of a model that is ready."""
    loaded = LoadedHead(slots=slots, concurrency=most, rss_bytes=resident_bytes(), seconds=seconds)
    if isinstance(model, SequenceModel):
        loaded.capacity = model.capacity()
    if model.signature is not None:
        loaded.inputs = _spec_heads(model.signature.inputs)
        loaded.outputs = _spec_heads(model.signature.outputs)
    if model.self_check is not None:
        loaded.self_check = dict(model.self_check)
    return loaded


def resolve(target: str) -> Any:
    """Import `"package.module:Name"`."""
    module, _, name = target.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in name.split("."):
        value = getattr(value, attribute)
    return value


def _spec_of(head: LoadHead, options_type: Any) -> ModelSpec:
    known = option_keys(options_type)
    own = {key: value for key, value in head.properties.items() if key in known}
    return ModelSpec(
        name=head.name,
        version=head.version,
        path=head.path,
        model_file=head.model_file,
        options=parse_options(options_type, own),
        properties=head.properties,
        batch_size=head.batch_size,
    )


def _prepare_tensors(model: TensorModel, head: LoadHead, *, engines_own: Container[str]) -> None:
    """Give a model what it reads images and pads requests with; what its engine declares is not ours."""
    from frame.worker.codecs.images import image_input  # numpy: only where there are tensors

    properties = {key: value for key, value in head.properties.items() if key not in engines_own}
    model.image_input = image_input(properties, model.signature)
    if head.padding is not None:
        from frame.worker.padding import Padder

        model.padder = Padder(Padding.from_json(head.padding), model.signature)


def _spec_heads(specs: tuple[TensorSpec, ...]) -> list[SpecHead]:
    return [
        SpecHead(item.name, item.dtype, None if item.shape is None else list(item.shape)) for item in specs
    ]

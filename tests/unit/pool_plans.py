"""Configurations and plans of a toy model from lines of its serving.properties."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from frame.api import EngineSpec
from frame.config.layers import file_layer
from frame.config.models import ModelIdentity, build_model_config
from frame.config.properties import parse_properties
from frame.config.servers import build_server_config
from frame.config.settings import ModelConfig, Source
from frame.pool.plan import ModelPlan, make_plan

ENGINE = EngineSpec(name="toy", api=(1, 1), target="toy:Toy")


def model_config(text: str = "", *, spec: EngineSpec = ENGINE, name: str = "m") -> ModelConfig:
    """Return the configuration of a model with these lines in its serving.properties."""
    server = build_server_config(parse_properties("", "f"), "f", {}, {}, lenient=False, memory_bytes=2**30)
    identity = ModelIdentity(
        name=name,
        version=None,
        path="/store/m",
        model_file=None,
        spec=spec,
        engine_source=Source("default", ""),
    )
    checked = build_model_config(
        identity, [file_layer(parse_properties(text, "f"), "f")], server, lenient=False
    )
    assert checked.config is not None, checked.problems
    return checked.config


def plan(
    text: str = "",
    *,
    devices: tuple[tuple[str, ...], ...] = (("cpu",),),
    environ: Mapping[str, str] | None = None,
    cores: int = 4,
) -> ModelPlan:
    """Return the plan of a model with these lines in its serving.properties."""
    return make_plan(
        model_config(text),
        ENGINE,
        url="file:///store/m/",
        interpreter=sys.executable,
        devices=devices,
        cores=cores,
        environ=environ or {},
    )

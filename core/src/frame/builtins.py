"""What frame-core itself contributes, as a plugin of the same kind as all others."""

from __future__ import annotations

from frame import __version__
from frame.contract.engines import EngineSpec
from frame.contract.protocols import Protocol, Route
from frame.contract.sources import ModelSource
from frame.hookspecs import hookimpl
from frame.worker.echo import EchoOptions
from frame.worker.functions import FunctionsOptions

VERSION = __version__


@hookimpl
def frame_engines() -> list[EngineSpec]:
    """Yield `echo`, which must be named, and `functions`, which workflows name: they claim no folder."""
    return [
        EngineSpec(name="echo", api=(1, 1), target="frame.worker.echo:EchoEngine", options=EchoOptions),
        EngineSpec(
            name="functions",
            api=(1, 1),
            target="frame.worker.functions:FunctionsEngine",
            options=FunctionsOptions,
        ),
    ]


@hookimpl
def frame_model_sources() -> list[ModelSource]:
    """Yield the web, S3 and Hugging Face hubs."""
    return [
        ModelSource(
            name="http", schemes=("http", "https"), api=(1, 1), target="frame.sources.http:HttpModel"
        ),
        ModelSource(
            name="s3",
            schemes=("s3",),
            api=(1, 1),
            target="frame.sources.s3:S3Model",
            requires={"boto3": "pip install 'frame-core[s3]'"},
        ),
        ModelSource(
            name="hub",
            schemes=("hf",),
            api=(1, 1),
            target="frame.sources.hub:HubModel",
            requires={"huggingface_hub": "pip install 'frame-core[hub]'"},
        ),
    ]


@hookimpl
def frame_protocols() -> list[Protocol]:
    """Yield DJL Serving's prediction routes."""
    paths = (
        "/predictions/{model}",
        "/predictions/{model}/{version}",
        "/invocations",
        "/models/{model}/invoke",
    )
    routes = tuple(map(Route, paths))
    return [
        Protocol(
            name="djl", routes=routes, target="frame.http.djl:DjlAdapter", codec="frame.worker.codecs.djl"
        )
    ]

"""The hooks that a plugin may implement.

Hook implementations may take fewer arguments than the specification.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from frame.contract.engines import EngineSpec
from frame.contract.protocols import Protocol
from frame.contract.sources import ModelSource

hookspec = pluggy.HookspecMarker("frame")
hookimpl = pluggy.HookimplMarker("frame")


@hookspec
def frame_engines() -> Iterable[EngineSpec]:  # type: ignore[empty-body]  # a specification has no body
    """Yield engines, as data: neither the plugin nor this call may import a framework."""


@hookspec
def frame_model_sources() -> Iterable[ModelSource]:  # type: ignore[empty-body]  # a specification has no body
    """Yield model sources, as data: places that models come from, by the scheme of their urls."""


@hookspec
def frame_protocols() -> Iterable[Protocol]:  # type: ignore[empty-body]  # a specification has no body
    """Yield protocols, as data: ways in which inference requests come in over HTTP."""

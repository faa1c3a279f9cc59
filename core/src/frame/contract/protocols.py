"""Protocols as data: how inference requests come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """A path template of a protocol (`/predictions/{model}/{version}`) and its methods (`*` for any)."""

    path: str
    methods: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A way in which inference requests come, as data.

    Attributes:
        routes: of class *inference*, served by the data plane.
        target: `"package.module:Class"` of the router half: request line and headers to model, version,
            properties; answers to status and headers. Never the payload, but for one bounded field that names
            the model.
        codec: dotted name of the worker half, a module of plain functions `decode` and `encode`
            (`frame.worker.codecs.djl` is the example), sent to the worker by name with each request.
    """

    name: str
    routes: tuple[Route, ...]
    target: str
    codec: str

"""Modules and a loader for the tests of the TorchScript engine."""

from __future__ import annotations

import json

import torch
from frame.api import EngineContext, ModelSpec, Part, Properties, Request
from frame_torchscript.engine import TorchScriptEngine
from frame_torchscript.options import TorchScriptOptions


def load(folder, name="model.pt", *, slots=4, **options):
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file=name,
        options=TorchScriptOptions(**options),
        properties={},
    )
    return TorchScriptEngine(EngineContext(devices=("cpu",), slots=slots)).load(spec)


def shapes(specs):
    return {spec.name: (spec.dtype, spec.shape) for spec in specs}


def ask(number, inputs):
    body = json.dumps({"inputs": inputs}).encode()
    return Request(
        id=str(number),
        properties=Properties({"content-type": "application/json"}),
        parts=(Part("data", body),),
    )


def told(response):
    return json.loads(bytes(response.parts[0].data))["predictions"]


class Encoder(torch.nn.Module):
    """Free batch and length, two inputs, dict of outputs: the shape of a text encoder."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return {"hidden": hidden, "pooled": hidden.mean(1)}


class Counter(torch.nn.Module):
    """Adds a running number, kept in a buffer that is written in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += x.sum()
        return x + self.count

    @torch.jit.export
    def restart(self):
        self.count.zero_()

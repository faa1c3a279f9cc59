"""The engine's options, for workers of another interpreter, too: nothing but frame.api is needed."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class MXNetOptions:
    """Keys `option.*` of serving.properties."""

    inputs: str = option("data", "The symbol's inputs, in order, between commas.")
    shape: str = option("-1", "Sizes of a row of the only input, between commas: 3,224,224.")
    epoch: int = option(0, "Which of the *.params is read.", minimum=0)

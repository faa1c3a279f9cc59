"""The engine `echo`: answers with what it was sent.

For trying a deployment and for measuring the server itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from frame.contract.engines import option
from frame.contract.models import Chunk, Done, Engine, JobId, Model, ModelSpec, SequenceModel
from frame.contract.requests import Buffer, Part, Request, RequestError, Response, ResponseStream

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_TEXT = {"content-type": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """What the echo engine does with a request."""

    mode: str = option(
        "whole", "whole: answer at once; stream: word by word; sequence: a word a step, with others.",
        choices=("whole", "stream", "sequence"),
    )  # fmt: skip
    delay_ms: int = option(0, "Milliseconds that a batch (or, in mode sequence, a step) takes.", minimum=0)
    max_rolling_batch_size: int = option(32, "Requests that run at once in mode sequence.", minimum=1)


class EchoModel(Model):
    """Parses and writes JSON bodies; sends all others back as they are."""

    def __init__(self, options: EchoOptions, slots: int) -> None:
        self.concurrency = slots
        self._options = options

    def predict(self, batch: Sequence[Request]) -> Sequence[Response | ResponseStream | RequestError]:
        """Answer each request with its own body."""
        if self._options.delay_ms:
            time.sleep(self._options.delay_ms / 1000)  # it stands for a model's work
        if self._options.mode == "stream":
            return [
                ResponseStream(head=Response(properties=_TEXT), chunks=_words(request)) for request in batch
            ]
        return [_echo(request) for request in batch]


class EchoSequence(SequenceModel):
    """Sends one word of each running request at each step."""

    def __init__(self, options: EchoOptions) -> None:
        self._options = options
        self._running: dict[JobId, Iterator[bytes]] = {}

    def capacity(self) -> int:
        """Return the places that are free."""
        return self._options.max_rolling_batch_size - len(self._running)

    def admit(self, job: JobId, request: Request) -> None:
        """Let a request join."""
        self._running[job] = _words(request)

    def step(self) -> Sequence[Chunk | Done]:
        """Send the next word of each."""
        if self._options.delay_ms:
            time.sleep(self._options.delay_ms / 1000)
        events: list[Chunk | Done] = []
        for job, words in list(self._running.items()):
            word = next(words, None)
            if word is None:
                del self._running[job]
                events.append(Done(job))
            else:
                events.append(Chunk(job=job, data=word, head=Response(properties=_TEXT)))
        return events

    def cancel(self, job: JobId) -> None:
        """Drop a request."""
        self._running.pop(job, None)


class EchoEngine(Engine):
    """Loads nothing."""

    def load(self, spec: ModelSpec) -> Model:
        """Return the model that the options ask for."""
        options: EchoOptions = spec.options
        return EchoSequence(options) if options.mode == "sequence" else EchoModel(options, self.context.slots)


def _words(request: Request) -> Iterator[bytes]:
    return (word + b" " for word in bytes(request.data).split())


def _echo(request: Request) -> Response | RequestError:
    content_type = request.properties.get("content-type", "application/octet-stream")
    data: Buffer = request.data
    if content_type.startswith("application/json"):
        try:
            data = _encode(json.loads(bytes(data))).encode()
        except ValueError as error:
            return RequestError(400, f"body: not JSON: {error}")
    return Response(properties={"content-type": content_type}, parts=(Part("data", data),))

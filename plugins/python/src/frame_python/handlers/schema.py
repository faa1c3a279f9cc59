"""Requests and answers of text generation, as DJL Serving's LMI and text-generation-inference have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frame.api import Part, Request, RequestError, Response

from frame_python.handlers.options import TransformersOptions
from frame_python.handlers.parameters import Parameters, parse_parameters
from frame_python.handlers.payload import json_body, read_parameters, read_payload, read_texts
from frame_python.handlers.streaming import EVENTS, JSONLINES, frame_line

FORMATTERS = ("json", "jsonlines", "sse")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request.

    Attributes:
        is_list: `inputs` was a list, so the answer is one.
        form: `json` for a whole answer; `jsonlines` or `sse` for a stream.
    """

    texts: tuple[str, ...]
    is_list: bool
    parameters: Parameters
    form: str
    seed: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token: number, the text that became certain with it, log-probability (None: it has none)."""

    id: int
    text: str
    log_prob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A sequence that ended.

    Attributes:
        finish_reason: `length`, `eos_token` or `stop_sequence`.
        prefill: the prompt's tokens, when they were asked for.
    """

    prompt: str
    tokens: tuple[Token, ...]
    finish_reason: str
    prefill: tuple[Token, ...] | None

    @property
    def text(self) -> str:
        """The answer without the prompt."""
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class GenerationSchema:
    """Reads requests and writes answers, by the model's options."""

    output_formatter: str
    streams: bool
    tgi_compat: bool
    special_ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, options: TransformersOptions, special_ids: frozenset[int]) -> GenerationSchema:
        """Return the schema that a model's options ask for.

        Raises:
            ValueError: an option is wrong.
        """
        chosen = options.output_formatter or ("sse" if options.tgi_compat else "jsonlines")
        if chosen not in FORMATTERS:
            raise ValueError(
                f"option.output_formatter={chosen}: expected one of {', '.join(FORMATTERS)}; "
                "another form of answer needs a model.py"
            )
        enabled = options.enable_streaming.lower() not in {"", "false"}
        return cls(
            output_formatter="jsonlines" if chosen == "json" else chosen,
            streams=enabled or options.output_formatter in {"jsonlines", "sse"},
            tgi_compat=options.tgi_compat,
            special_ids=special_ids,
        )

    def read(self, request: Request) -> GenerationRequest:
        """Read a request.

        Raises:
            RequestError: 400, what is wrong with it.
        """
        payload = read_payload(request)
        parameters = parse_parameters(read_parameters(payload))
        texts, is_list = read_texts(payload)
        form = self._form(payload.get("stream"), request.properties.get("Accept") or "")
        if form != "json" and len(texts) > 1:
            raise RequestError(400, f"stream: one text at a time, got {len(texts)}; send a request for each")
        return GenerationRequest(
            texts=tuple(texts),
            is_list=is_list,
            parameters=parameters,
            form=form,
            seed=request.seed if parameters.seed is None else parameters.seed,
        )

    def _form(self, stream: object, accept: str) -> str:
        if stream is not None and not isinstance(stream, bool):
            raise RequestError(400, f"stream={stream!r}: expected true or false")
        wants_events = EVENTS in accept.lower()
        if not (self.streams or wants_events if stream is None else stream):
            return "json"
        return "sse" if wants_events else self.output_formatter

    def whole(self, asked: GenerationRequest, found: list[Generated]) -> Response:
        """Return the answer to a request that does not stream."""
        answers = [self._result(asked.parameters, item) for item in found]
        as_list = asked.is_list or self.tgi_compat
        return Response(
            properties={"Content-Type": "application/json"},
            parts=(Part("data", json_body(answers if as_list else answers[0])),),
        )

    def head(self, form: str) -> Response:
        """Return status and headers of a stream."""
        return Response(properties={"Content-Type": EVENTS if form == "sse" else JSONLINES})

    def line(self, asked: GenerationRequest, token: Token, end: Generated | None) -> bytes:
        """Return the next piece of a stream; the last one, with `end`, has the whole text."""
        line: dict[str, Any] = {"token": self._token(token)}
        if end is not None:
            result = self._result(asked.parameters, end)
            result.get("details", {}).pop("tokens", None)  # the stream had them
            line |= result
        elif self.tgi_compat:
            line |= {"generated_text": None, "details": None}
        return frame_line(json_body(line), asked.form)

    def _result(self, parameters: Parameters, item: Generated) -> dict[str, Any]:
        before = item.prompt if parameters.return_full_text else ""
        result: dict[str, Any] = {"generated_text": before + item.text}
        if parameters.details or parameters.decoder_input_details:
            details: dict[str, Any] = {
                "finish_reason": item.finish_reason,
                "generated_tokens": len(item.tokens),
                "inputs": item.prompt,
                "tokens": [self._token(token) for token in item.tokens],
            }
            if item.prefill is not None:
                details["prefill"] = [self._token(token) for token in item.prefill]
            result["details"] = details
        return result

    def _token(self, token: Token) -> dict[str, Any]:
        if self.tgi_compat:
            is_special = token.id in self.special_ids
            return {"id": token.id, "text": token.text, "logprob": token.log_prob, "special": is_special}
        return {"id": token.id, "text": token.text, "log_prob": token.log_prob}

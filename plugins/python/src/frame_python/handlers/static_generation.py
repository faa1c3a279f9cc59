"""Text generation by whole batches through transformers' `generate`, for `rolling_batch=disable`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from frame.api import Model, Part, Request, RequestError, Response

from frame_python.answers import failure, is_out_of_memory
from frame_python.handlers.loading import Transformer
from frame_python.handlers.parameters import FOREIGN, Parameters, parse_parameters
from frame_python.handlers.payload import json_body, read_parameters, read_payload, read_texts
from frame_python.handlers.prompts import encode_prompt
from frame_python.handlers.stopping import StopText

_log = logging.getLogger(__name__)
_PASSED = frozenset({
    "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "min_length", "max_time", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "num_beam_groups",
    "diversity_penalty", "epsilon_cutoff", "eta_cutoff", "min_p", "renormalize_logits",
})  # fmt: skip
"""Parameters that go to `generate` as they are."""
_STREAM_NAMES = ("details", "decoder_input_details")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One text of a request.

    Attributes:
        index: its place among the request's texts.
        limit: new tokens at most.
        group: texts of one batch have equal ones.
    """

    request: int
    index: int
    text: str
    ids: tuple[int, ...]
    parameters: Parameters
    passed: dict[str, Any]
    seed: int
    limit: int
    group: str


class StaticGenerationModel(Model):
    """Answers a batch as one, in the form of DJL Serving's DeepSpeed handler: `[{"generated_text": …}]`.

    Texts with the same parameters run together, padded on the left; what is drawn by chance runs request by
    request, each from its own seed, so that no answer depends on its neighbours.
    """

    def __init__(self, loaded: Transformer) -> None:
        self._loaded = loaded
        self._has_encoder = loaded.task == "text2text-generation"

    def predict(self, batch: Sequence[Request]) -> list[Response | RequestError]:
        """See `Model`."""
        found: list[dict[int, str] | RequestError] = [{} for _ in batch]
        groups: dict[str, list[_Asked]] = {}
        for index, request in enumerate(batch):
            read = self._read_safely(index, request)
            if isinstance(read, RequestError):
                found[index] = read
            for asked in read if isinstance(read, list) else ():
                groups.setdefault(asked.group, []).append(asked)
        for group in groups.values():
            for asked, text in zip(group, self._generate_safely(group), strict=True):
                earlier = found[asked.request]
                if isinstance(text, RequestError) or isinstance(earlier, RequestError):
                    found[asked.request] = text if isinstance(text, RequestError) else earlier
                else:
                    earlier[asked.index] = text
        return [
            item if isinstance(item, RequestError) else _answer([item[i] for i in range(len(item))])
            for item in found
        ]

    def _read_safely(self, index: int, request: Request) -> list[_Asked] | RequestError:
        try:
            return self._read(index, request)
        except RequestError as error:
            return error

    def _generate_safely(self, group: Sequence[_Asked]) -> Sequence[str | RequestError]:
        """Return the texts; what fails them fails these requests alone."""
        try:
            return self._generate(group)
        except Exception as error:  # noqa: BLE001  # fault line: around `generate`
            if not group[0].passed or is_out_of_memory(error):
                _log.exception("generate_failed texts=%d", len(group))
                return [failure(error)] * len(group)
            names = ", ".join(sorted(group[0].passed))
            return [RequestError(400, f"parameters ({names}): {error}")] * len(group)

    def _read(self, index: int, request: Request) -> list[_Asked]:
        payload = read_payload(request)
        given = read_parameters(payload)
        passed = {key: value for key, value in given.items() if key in _PASSED and key in FOREIGN}
        parameters = parse_parameters({key: value for key, value in given.items() if key not in passed})
        wanted = [name for name in _STREAM_NAMES if getattr(parameters, name)]
        wanted += ["stream"] if payload.get("stream") else []
        if wanted:
            raise RequestError(
                400, f"{wanted[0]}: not with option.rolling_batch=disable or a batch_size above 1"
            )
        texts, _ = read_texts(payload)
        seed = request.seed if parameters.seed is None else parameters.seed
        found = []
        for place, text in enumerate(texts):
            ids = encode_prompt(self._loaded.tokenizer, text, parameters, self._loaded.max_tokens)
            room = self._loaded.max_tokens - (0 if self._has_encoder else len(ids))
            limit = min(parameters.max_new_tokens, room)
            alone = index if parameters.samples else -1
            same = replace(parameters, seed=None, max_new_tokens=1)
            key = repr((same, sorted(passed.items(), key=str), alone))
            found.append(
                _Asked(
                    request=index, index=place, text=text, ids=tuple(ids), parameters=parameters,
                    passed=passed, seed=seed, limit=limit, group=key,
                )
            )  # fmt: skip
        return found

    def _generate(self, group: Sequence[_Asked]) -> list[str]:
        """Return the texts of one batch: it runs as long as the longest of them, the others are cut."""
        first, tokenizer = group[0], self._loaded.tokenizer
        limit = max(asked.limit for asked in group)
        if len(group) > 1 and any(len(asked.ids) + limit > self._loaded.max_tokens for asked in group):
            return [text for asked in group for text in self._generate([asked])]  # no such positions
        padded = tokenizer.pad(
            {"input_ids": [list(asked.ids) for asked in group]}, padding=True, return_tensors="pt"
        ).to(self._loaded.device)
        devices = [self._loaded.device] if self._loaded.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(first.seed)
            rows = self._loaded.model.generate(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                pad_token_id=tokenizer.pad_token_id,
                **_arguments(first.parameters, limit, tokenizer),
                **first.passed,
            )
        begin = 1 if self._has_encoder else padded["input_ids"].shape[1]
        answers = [row[begin : begin + asked.limit] for asked, row in zip(group, rows, strict=True)]
        return [self._text(asked, answer.tolist()) for asked, answer in zip(group, answers, strict=True)]

    def _text(self, asked: _Asked, tokens: list[int]) -> str:
        """Return an answer as text: what follows the prompt depends on it, as words begin with spaces."""
        decode = self._loaded.tokenizer.decode
        known = [] if self._has_encoder else list(asked.ids)
        before: str = decode(known, skip_special_tokens=True) if known else ""
        answer: str = decode(known + tokens, skip_special_tokens=True)[len(before) :]
        stops = StopText(asked.parameters.stop_sequences)
        answer = stops.feed(answer) + stops.flush()
        wants_prompt = asked.parameters.return_full_text is not False and not self._has_encoder
        return asked.text + answer if wants_prompt else answer


def _answer(texts: Sequence[str]) -> Response:
    body = json_body([{"generated_text": text} for text in texts])
    return Response(properties={"Content-Type": "application/json"}, parts=(Part("data", body),))


def _arguments(parameters: Parameters, limit: int, tokenizer: Any) -> dict[str, Any]:
    """Return `generate`'s names for the parameters."""
    found: dict[str, Any] = {
        "max_new_tokens": limit,
        "do_sample": parameters.samples,
        "repetition_penalty": parameters.repetition_penalty,
    }
    if parameters.min_new_tokens:
        found["min_new_tokens"] = parameters.min_new_tokens
    if parameters.stop_sequences:
        found |= {"stop_strings": list(parameters.stop_sequences), "tokenizer": tokenizer}
    if parameters.samples:
        found |= {"temperature": parameters.temperature, "top_k": parameters.top_k, "top_p": parameters.top_p}
        found |= {"typical_p": parameters.typical_p}
    return found

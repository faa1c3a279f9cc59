"""The parameters of a text-generation request: typed, within their limits, nothing ignored in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from frame.api import RequestError

MAX_STOP_SEQUENCES = 64
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How to generate; the defaults are DJL Serving's (djl_python, rolling batch).

    Attributes:
        max_new_tokens: >= 1; fewer when the prompt leaves no room for them.
        min_new_tokens: until then the text does not end by itself.
        seed: of the sampler; None: the request's own.
        temperature: > 0; 0 is greedy.
        top_k: 0 for all tokens.
        top_p, typical_p: share of the probability that is kept, 0 < p <= 1; 1 keeps all.
        repetition_penalty: > 0; 1 for none; of prompt and answer.
        stop_sequences: texts that end the answer and are no part of it.
        truncate: of a longer prompt, take the last so many tokens.
        return_full_text: put the prompt before the answer; None: as the form of the answer has it.
    """

    max_new_tokens: int = 30
    min_new_tokens: int = 0
    do_sample: bool = False
    seed: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    stop_sequences: tuple[str, ...] = ()
    truncate: int | None = None
    details: bool = False
    decoder_input_details: bool = False
    return_full_text: bool | None = None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn by chance."""
        return self.do_sample and self.temperature > 0


@dataclass(frozen=True, slots=True)
class _Number:
    """A number's range; `low` itself is excluded when `is_open`."""

    low: float
    high: float = math.inf
    is_open: bool = False
    is_whole: bool = False

    def describe(self) -> str:
        noun = "a whole number" if self.is_whole else "a number"
        low = f"> {self.low:g}" if self.is_open else f">= {self.low:g}"
        return f"{noun} {low}" + ("" if self.high in {math.inf, _LARGEST} else f" and <= {self.high:g}")

    def read(self, value: object) -> float | None:
        """Return the number, or None when it is none or out of range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        if self.is_whole and value != int(value):
            return None
        is_low = value <= self.low if self.is_open else value < self.low
        if is_low or value > self.high:
            return None
        return int(value) if self.is_whole else float(value)


_NUMBERS = {
    "max_new_tokens": _Number(1, _LARGEST, is_whole=True),
    "min_new_tokens": _Number(0, _LARGEST, is_whole=True),
    "seed": _Number(0, _LARGEST, is_whole=True),
    "temperature": _Number(0),
    "top_k": _Number(0, _LARGEST, is_whole=True),
    "top_p": _Number(0, 1, is_open=True),
    "typical_p": _Number(0, 1, is_open=True),
    "repetition_penalty": _Number(0, is_open=True),
    "truncate": _Number(1, _LARGEST, is_whole=True),
}
_TRUTHS = ("do_sample", "details", "decoder_input_details", "return_full_text")

# What other servers, or transformers' `generate`, take and this handler does not: name -> values that change
# nothing. A value that would change the answer is refused, as an answer that ignores it would be wrong. Names
# that nobody knows are ignored, as in DJL Serving.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,), "best_of": (1,), "num_beams": (1,), "num_return_sequences": (1,), "num_beam_groups": (1,),
    "top_n_tokens": (0,), "watermark": (False,), "ignore_eos_token": (False,), "use_cache": (True,),
    "frequency_penalty": (0,), "presence_penalty": (0,), "min_p": (0,), "min_length": (0,),
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "length_penalty": (1,),
    "diversity_penalty": (0,), "early_stopping": (False,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,), "renormalize_logits": (False,), "remove_invalid_values": (False,),
    "token_healing": (False,), "guidance_scale": (1,), "output_attentions": (False,),
    "output_hidden_states": (False,), "output_scores": (False,), "output_logits": (False,),
    "return_dict_in_generate": (False,), "max_length": (), "max_time": (), "bad_words_ids": (),
    "force_words_ids": (), "constraints": (), "forced_bos_token_id": (), "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (), "suppress_tokens": (), "begin_suppress_tokens": (),
    "sequence_bias": (), "logit_bias": (), "penalty_alpha": (), "watermarking_config": (), "pad_token_id": (),
    "bos_token_id": (), "eos_token_id": (), "decoder_start_token_id": (), "prompt_lookup_num_tokens": (),
    "cache_implementation": (), "dola_layers": (), "top_h": (), "grammar": (), "response_format": (),
    "stop_strings": (), "stop_token_ids": (), "logprobs": (), "prompt_logprobs": (),
}  # fmt: skip
FOREIGN = frozenset(_NEUTRAL)
"""Names of parameters that others know and this handler does not."""


def parse_parameters(given: Mapping[str, Any]) -> Parameters:
    """Type the parameters of a request.

    Raises:
        RequestError: 400, names the first that is wrong or not supported.
    """
    typed: dict[str, Any] = {}
    for name, value in given.items():
        if name in {"stop_sequences", "stop"}:
            typed["stop_sequences"] = _texts(name, value)
        elif value is None:
            continue
        elif name in _NUMBERS:
            number = _NUMBERS[name].read(value)
            if number is None:
                raise _refused(name, value, f"expected {_NUMBERS[name].describe()}")
            typed[name] = number
        elif name in _TRUTHS:
            if not isinstance(value, bool):
                raise _refused(name, value, "expected true or false")
            typed[name] = value
        elif name in _NEUTRAL and value not in _NEUTRAL[name]:
            known = ", ".join(item.name for item in fields(Parameters))
            raise _refused(name, value, f"not supported here; supported: {known}")
    return Parameters(**typed)


def _texts(name: str, value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
        raise _refused(name, value, "expected a list of texts, none of them empty")
    if len(found) > MAX_STOP_SEQUENCES:
        raise _refused(name, f"{len(found)} texts", f"at most {MAX_STOP_SEQUENCES} are allowed")
    return tuple(found)


def _refused(name: str, value: object, reason: str) -> RequestError:
    text = repr(value)
    shown = text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004  # enough to recognise it
    return RequestError(400, f"parameters.{name}={shown}: {reason}")

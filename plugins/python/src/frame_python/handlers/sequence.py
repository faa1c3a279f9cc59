"""One text being generated: its tokens, its slot, its end. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from frame_python.handlers.parameters import Parameters
from frame_python.handlers.sampling import Sampler
from frame_python.handlers.schema import Generated, Token
from frame_python.handlers.stopping import StopText
from frame_python.handlers.streaming import Detokenizer


@dataclass(slots=True, eq=False, kw_only=True)
class RunningText:
    """A prompt and the answer so far.

    Attributes:
        ids: the prompt's tokens, then the answer's.
        limit: tokens that the answer has at most.
        slot: where it runs; None while it waits and after its end.
        taken: prompt tokens that the model has.
        begun: steps begun for it.
        is_given: its last token is not the likeliest, so the next step must be told it.
        finish_reason: "" while it runs.
    """

    prompt: str
    ids: list[int]
    prompt_length: int
    limit: int
    parameters: Parameters
    sampler: Sampler
    detokenizer: Detokenizer
    stops: StopText
    end_ids: frozenset[int]
    slot: int | None = None
    taken: int = 0
    begun: int = 0
    is_given: bool = False
    finish_reason: str = ""
    tokens: list[Token] = field(default_factory=list)
    prefill: list[Token] = field(default_factory=list)

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is in and it goes on."""
        return self.taken == self.prompt_length and not self.finish_reason

    @property
    def takes_likeliest(self) -> bool:
        """Whether its next token is the likeliest one, whatever that is."""
        return self.sampler.takes_likeliest(len(self.tokens))

    @property
    def wants_step(self) -> bool:
        """Whether another step would give a token that counts, once those begun have ended."""
        return self.is_decoding and 1 + self.begun < self.limit

    def take(self, token: int, log_prob: float) -> Token:
        """Add the answer's next token; return it with the text that became certain."""
        self.ids.append(token)
        is_end = token in self.end_ids
        text = "" if is_end else self.stops.feed(self.detokenizer.add(token))
        is_last = is_end or len(self.tokens) + 1 >= self.limit
        if is_last and not self.stops.has_stopped:
            text += self.stops.feed(self.detokenizer.flush())
            text += self.stops.flush()
        if self.stops.has_stopped:
            self.finish_reason = "stop_sequence"
        elif is_last:
            self.finish_reason = "eos_token" if is_end else "length"
        taken = Token(token, text, log_prob)
        self.tokens.append(taken)
        return taken

    def result(self) -> Generated:
        """Return what it came to; only after its end."""
        return Generated(
            prompt=self.prompt,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason,
            prefill=tuple(self.prefill) if self.parameters.decoder_input_details else None,
        )


def begin_text(
    tokenizer: Any,
    prompt: str,
    ids: Sequence[int],
    parameters: Parameters,
    *,
    seed: int,
    limit: int,
    end_ids: frozenset[int],
) -> RunningText:
    """Return a text that waits for a slot."""
    return RunningText(
        prompt=prompt,
        ids=list(ids),
        prompt_length=len(ids),
        limit=limit,
        parameters=parameters,
        sampler=Sampler(parameters, seed=seed, prompt_length=len(ids), end_ids=sorted(end_ids)),
        detokenizer=Detokenizer(tokenizer, ids),
        stops=StopText(parameters.stop_sequences),
        end_ids=end_ids,
    )

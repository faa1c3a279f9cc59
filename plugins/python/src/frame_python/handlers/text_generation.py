"""Text generation with continuous batching: texts join at the next token and leave at their own end."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from frame.api import Chunk, Done, Failed, JobId, Request, SequenceModel

from frame_python.handlers.prompts import encode_prompt
from frame_python.handlers.schema import GenerationRequest, GenerationSchema, Token
from frame_python.handlers.sequence import RunningText, begin_text
from frame_python.handlers.stepping import Stepper, best_of

Event = Chunk | Done | Failed
_ALONE = 4
"""So many times the usual prompt tokens are taken at once while no text is waiting for its next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationLimits:
    """What a model is run with.

    Attributes:
        max_tokens: of prompt and answer together, at most the stepper's `max_length`.
        prefill_tokens: prompt tokens taken between two steps, so that a long prompt does not stop the others.
        runs_ahead: begin the next step before the last one's tokens are read, so that the device does not
            wait for the host. A text that ends has then one step too many, whose token nobody sees.
        end_ids: tokens that end a text.
    """

    max_tokens: int
    prefill_tokens: int = 64
    runs_ahead: bool = False
    end_ids: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class _Job:
    id: JobId
    asked: GenerationRequest
    texts: list[RunningText]
    has_begun: bool = False


class TextGenerationModel(SequenceModel):
    """A causal language model behind a stepper.

    Attributes:
        stepper: what runs the model; calls of others, between two steps, must leave its slots as they were.

    Invariants:
        - A slot holds one text; the lowest free slot is taken first; texts are placed in the order they came.
        - Every token is chosen by its own text's parameters, from its own text's logits.
        - Order of slots and texts follows from the order of calls alone: ranks that make the same calls
          choose the same tokens.
    """

    def __init__(
        self, stepper: Stepper, tokenizer: Any, schema: GenerationSchema, limits: GenerationLimits
    ) -> None:
        self.stepper = stepper
        self._tokenizer = tokenizer
        self._schema = schema
        self._limits = limits
        self._jobs: dict[JobId, _Job] = {}
        self._waiting: deque[RunningText] = deque()
        self._placed: dict[int, RunningText] = {}
        self._flight: deque[dict[int, RunningText]] = deque()
        self._digest = 0
        self._has_put_off = False

    def capacity(self) -> int:
        """See `SequenceModel`."""
        return max(0, self.stepper.slots - len(self._placed) - len(self._waiting))

    def admit(self, job: JobId, request: Request) -> None:
        """Read and encode the request; its texts wait for the next step."""
        asked = self._schema.read(request)
        parameters, limit = asked.parameters, self._limits.max_tokens
        texts = []
        for index, prompt in enumerate(asked.texts):
            ids = encode_prompt(self._tokenizer, prompt, parameters, limit)
            texts.append(
                begin_text(
                    self._tokenizer,
                    prompt,
                    ids,
                    parameters,
                    seed=asked.seed + index,
                    limit=min(parameters.max_new_tokens, limit - len(ids)),
                    end_ids=self._limits.end_ids,
                )
            )
        self._jobs[job] = _Job(job, asked, texts)
        self._waiting += texts

    def cancel(self, job: JobId) -> None:
        """See `SequenceModel`."""
        found = self._jobs.pop(job, None)
        for text in found.texts if found else ():
            text.finish_reason = text.finish_reason or "cancelled"
            self._leave(text)

    def close(self) -> None:
        """See `Model`."""
        self.stepper.close()

    def digest(self) -> int:
        """Return a hash of the slots and tokens of the last step."""
        return self._digest

    def step(self) -> Sequence[Event]:
        """Take some prompt tokens, and one token for each text whose prompt is in."""
        self._place()
        chosen = list(self._prefill())
        if chosen and not self._has_put_off:
            # First tokens go out now, not after the step that they join; never twice in a row, so that a
            # stream of new prompts does not stop those that run.
            self._has_put_off = True
            self._begin_early()
        else:
            self._has_put_off = False
            chosen += self._decode()
        self._digest = _digest_of([(slot, token.id) for slot, _, token in chosen])
        for _, text, _ in chosen:
            if text.finish_reason:
                self._leave(text)
        return list(self._events([(text, token) for _, text, token in chosen]))

    # --- slots --------------------------------------------------------------------------------

    def _place(self) -> None:
        """Give free slots to the texts that wait."""
        free = (slot for slot in range(self.stepper.slots) if slot not in self._placed)
        while self._waiting and (slot := next(free, None)) is not None:
            text = self._waiting.popleft()
            text.slot = slot
            self._placed[slot] = text

    def _leave(self, text: RunningText) -> None:
        if text.slot is None:
            if text in self._waiting:
                self._waiting.remove(text)
            return
        del self._placed[text.slot]
        self.stepper.release(text.slot)
        text.slot = None

    # --- prompts ------------------------------------------------------------------------------

    def _prefill(self) -> Iterator[tuple[int, RunningText, Token]]:
        """Take prompt tokens in the order in which texts came, up to the limit; yield first tokens."""
        whole, parts = self._choose_prompts()
        if whole:
            self.stepper.prefill_many({slot: text.ids for slot, text in whole.items()})
            logits = [self.stepper.logits(slot) for slot in whole]
            best = best_of(torch.stack(logits)).T.tolist()  # one copy from the device for all
            for (slot, text), scores, (token, log_prob) in zip(whole.items(), logits, best, strict=True):
                text.taken = text.prompt_length
                if text.takes_likeliest:
                    yield slot, text, text.take(int(token), log_prob)
                else:
                    yield slot, text, self._take_chosen(text, scores)
        for slot, text, size in parts:
            scores = self._take_prompt(slot, text, size)
            if text.taken == text.prompt_length:
                yield slot, text, self._choose_first(text, scores)

    def _choose_prompts(self) -> tuple[dict[int, RunningText], list[tuple[int, RunningText, int]]]:
        """Return the prompts that fit whole before the next step, and of others how many tokens do."""
        left = self._limits.prefill_tokens
        if not any(text.is_decoding for text in self._placed.values()):
            left *= _ALONE  # there is nobody to stop
        whole: dict[int, RunningText] = {}
        parts = []
        for slot, text in self._placed.items():
            missing = text.prompt_length - text.taken
            size = min(left, missing)
            left -= size
            if 0 < size == text.prompt_length and not text.parameters.decoder_input_details:
                whole[slot] = text
            elif size > 0:
                parts.append((slot, text, size))
        return whole, parts

    def _take_prompt(self, slot: int, text: RunningText, size: int) -> Any:
        """Take some tokens of a prompt (one by one, if details are asked for); return the last logits."""
        end = text.taken + size
        if not text.parameters.decoder_input_details:
            start, text.taken = text.taken, end
            return self.stepper.prefill(slot, text.ids[start:end], start)
        if text.taken == 0:
            text.prefill.append(self._prompt_token(text.ids[0], None))
        while text.taken < end:
            logits = self.stepper.prefill(slot, text.ids[text.taken : text.taken + 1], text.taken)
            text.taken += 1
            if text.taken < text.prompt_length:
                token = text.ids[text.taken]
                log_prob = float(logits.float().log_softmax(dim=-1)[token])
                text.prefill.append(self._prompt_token(token, log_prob))
        return logits

    def _prompt_token(self, token: int, log_prob: float | None) -> Token:
        return Token(token, self._tokenizer.decode([token]), log_prob)

    def _choose_first(self, text: RunningText, logits: Any) -> Token:
        if not text.takes_likeliest:
            return self._take_chosen(text, logits)
        ((token,), (log_prob,)) = best_of(logits[None]).tolist()
        return text.take(int(token), log_prob)

    # --- steps --------------------------------------------------------------------------------

    def _decode(self) -> Iterator[tuple[int, RunningText, Token]]:
        """End the oldest step begun, with the next one begun before where that is possible."""
        if not self._flight:
            self._begin({})
        if self._limits.runs_ahead and len(self._flight) == 1 and self._needs_no_logits():
            self._begin(self._flight[0])
        if not self._flight:
            return
        texts = self._flight.popleft()
        tokens, log_probs = self.stepper.end()
        for slot, text in texts.items():
            if text.finish_reason:
                continue  # it ended, or was cancelled, after this step had begun
            if text.takes_likeliest:
                text.is_given = False
                yield slot, text, text.take(tokens[slot], log_probs[slot])
            else:
                yield slot, text, self._take_chosen(text, self.stepper.logits(slot))

    def _begin_early(self) -> None:
        """Let the device work while the host sends first tokens."""
        if self._limits.runs_ahead and not self._flight and self._needs_no_logits():
            self._begin({})

    def _begin(self, in_flight: dict[int, RunningText]) -> None:
        """Begin a step of all texts that want one; those in flight go on from what the stepper chooses."""
        texts = {slot: text for slot, text in sorted(self._placed.items()) if text.wants_step}
        if not texts:
            return
        given = {
            slot: text.ids[-1]
            for slot, text in texts.items()
            if text.is_given and in_flight.get(slot) is not text
        }
        self.stepper.begin(list(texts), given or None)
        for text in texts.values():
            text.begun += 1
        self._flight.append(texts)

    def _needs_no_logits(self) -> bool:
        """Whether all texts take the likeliest token: the next step, or a prompt, overwrites the logits."""
        return all(text.takes_likeliest for text in self._placed.values() if text.is_decoding)

    def _take_chosen(self, text: RunningText, logits: Any) -> Token:
        token, log_prob = text.sampler.choose(logits, text.ids)
        text.is_given = True
        return text.take(token, log_prob)

    # --- answers ------------------------------------------------------------------------------

    def _events(self, chosen: list[tuple[RunningText, Token]]) -> Iterator[Event]:
        tokens_of: dict[int, list[Token]] = {}
        for text, token in chosen:
            tokens_of.setdefault(id(text), []).append(token)
        for job in list(self._jobs.values()):
            if job.asked.form != "json":
                yield from self._stream(job, tokens_of.get(id(job.texts[0]), []))
            elif all(text.finish_reason for text in job.texts):
                del self._jobs[job.id]
                yield Done(job.id, self._schema.whole(job.asked, [text.result() for text in job.texts]))

    def _stream(self, job: _Job, tokens: list[Token]) -> Iterator[Event]:
        text = job.texts[0]
        end = text.result() if text.finish_reason else None
        for token in tokens:
            is_last = token is tokens[-1]
            head = None if job.has_begun else self._schema.head(job.asked.form)
            job.has_begun = True
            line = self._schema.line(job.asked, token, end if is_last else None)
            yield Chunk(job=job.id, data=line, head=head)
        if end is not None:
            del self._jobs[job.id]
            yield Done(job.id)


def _digest_of(tokens: list[tuple[int, int]]) -> int:
    data = b"".join(slot.to_bytes(4, "big") + token.to_bytes(8, "big") for slot, token in tokens)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")

"""Text in pieces: whole characters, the same text as at once, stops and steps in the model's own order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frame.api import Chunk, Done, Part, Properties, Request, RequestError
from frame_python.handlers.schema import GenerationSchema
from frame_python.handlers.streaming import Detokenizer, frame_line
from frame_python.handlers.text_generation import GenerationLimits, TextGenerationModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import hf_models


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return hf_models.save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    prompt=st.text(min_size=1, max_size=12),
    answer=st.lists(st.integers(0, hf_models.VOCABULARY - 1), max_size=30) | st.text(max_size=20),
)
def test_pieces_joined_are_the_text_decoded_at_once(tokenizer: Any, prompt: str, answer: list[int] | str):
    known = tokenizer(prompt)["input_ids"]
    tokens = tokenizer(answer)["input_ids"] if isinstance(answer, str) else answer
    text = Detokenizer(tokenizer, known)
    pieces = [text.add(token) for token in tokens]
    assert all(not piece.endswith("\ufffd") for piece in pieces)
    whole = tokenizer.decode(known + list(tokens), skip_special_tokens=True)
    assert "".join(pieces) + text.flush() == whole[len(tokenizer.decode(known, skip_special_tokens=True)) :]


def test_lines_and_events():
    assert frame_line(b"{}", "jsonlines") == b"{}\n"
    assert frame_line(b"{}", "sse") == b"data: {}\n\n"


class CountingTokenizer:
    """A tokenizer whose tokens are the characters, and no model behind it."""

    all_special_ids = (0,)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class CountingStepper:
    """A stepper whose likeliest token is the sum of all tokens of its slot, modulo 7, as a letter.

    The letter after it is the second. It refuses what a real one could not do: a position that is not the
    next, a slot used twice, logits that are gone.
    """

    def __init__(self, slots: int, max_length: int) -> None:
        self.slots, self.max_length = slots, max_length
        self.held: dict[int, list[int]] = {}
        self.begun: list[dict[int, int]] = []
        self.fresh: set[int] = set()

    def _best(self, slot: int) -> int:
        return 97 + sum(self.held[slot]) % 7

    def _logits(self, slot: int) -> Any:
        import torch

        scores = torch.zeros(128)
        scores[self._best(slot)], scores[self._best(slot) + 1] = 2, 1
        return scores

    def prefill(self, slot: int, ids: list[int], start: int = 0) -> Any:
        assert start == len(self.held.get(slot, []) if start else [])
        self.held[slot] = (self.held[slot] if start else []) + list(ids)
        assert len(self.held[slot]) <= self.max_length
        self.fresh = {slot}
        return self._logits(slot)

    def prefill_many(self, prompts: dict[int, list[int]]) -> None:
        for slot, ids in prompts.items():
            self.prefill(slot, ids)
        self.fresh = set(prompts)

    def begin(self, active: list[int], tokens: dict[int, int] | None = None) -> None:
        assert len(set(active)) == len(active) > 0
        for slot in active:
            self.held[slot].append((tokens or {}).get(slot, self._best(slot)))
            assert len(self.held[slot]) <= self.max_length + 1  # one ahead
        self.begun.append({slot: self._best(slot) for slot in active})
        assert len(self.begun) <= 2
        self.fresh = set(active)

    def end(self) -> tuple[dict[int, int], dict[int, float]]:
        best = self.begun.pop(0)
        return best, dict.fromkeys(best, -1.0)

    def logits(self, slot: int) -> Any:
        assert slot in self.fresh  # no prompt and no other step overwrote them
        return self._logits(slot)

    def release(self, slot: int) -> None:
        self.held.pop(slot, None)

    def close(self) -> None:
        pass


END = ord("c")


def expected(prompt: str, least: int, most: int) -> str:
    text = [ord(character) for character in prompt]
    for number in range(most):
        likeliest = 97 + sum(text) % 7
        if likeliest == END and number >= least:
            break
        text.append(likeliest + (likeliest == END))
    return "".join(map(chr, text[len(prompt) :]))


class Jobs(RuleBasedStateMachine):
    """Jobs come, are cancelled and end in any order: each gets its own text, and no slot is lost."""

    @initialize(runs_ahead=st.booleans(), prefill=st.integers(1, 9), slots=st.integers(1, 4))
    def begin(self, runs_ahead: bool, prefill: int, slots: int) -> None:
        self.slots = slots
        limits = GenerationLimits(
            max_tokens=40, prefill_tokens=prefill, runs_ahead=runs_ahead, end_ids=frozenset({END})
        )
        schema = GenerationSchema("jsonlines", streams=False, tgi_compat=False)
        self.model = TextGenerationModel(CountingStepper(slots, 40), CountingTokenizer(), schema, limits)
        self.asked: dict[int, Any] = {}
        self.streamed: dict[int, bytes] = {}
        self.number = 0

    @rule(
        prompts=st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=3),
        most=st.integers(1, 12),
        least=st.sampled_from([0, 0, 3, 12]),
        is_stream=st.booleans(),
    )
    @precondition(lambda self: self.model.capacity() > 0)
    def admit(self, prompts: list[str], most: int, least: int, is_stream: bool) -> None:
        import json

        self.number += 1
        inputs = prompts[0] if is_stream else prompts
        parameters = {"max_new_tokens": most, "min_new_tokens": least}
        body = json.dumps({"inputs": inputs, "parameters": parameters, "stream": is_stream})
        request = Request(id="r", properties=Properties({}), parts=(Part("data", body.encode()),))
        self.model.admit(self.number, request)
        self.asked[self.number] = (inputs, least, most)

    @rule(job=st.integers(1, 30))
    def cancel(self, job: int) -> None:
        self.model.cancel(job)
        self.asked.pop(job, None)

    @rule()
    @precondition(lambda self: self.asked)
    def step(self) -> None:
        for event in self.model.step():
            if isinstance(event, Chunk):
                assert (event.head is None) == (event.job in self.streamed)
                self.streamed[event.job] = self.streamed.get(event.job, b"") + bytes(event.data)
            else:
                self.check(event)

    def check(self, event: Any) -> None:
        import json

        assert isinstance(event, Done)
        inputs, least, most = self.asked.pop(event.job)
        if event.response is None:
            lines = [json.loads(line) for line in self.streamed[event.job].splitlines()]
            assert "".join(line["token"]["text"] for line in lines) == expected(inputs, least, most)
            assert all("generated_text" not in line for line in lines[:-1])
            assert lines[-1]["generated_text"] == expected(inputs, least, most)
            return
        found = json.loads(bytes(event.response.parts[0].data))
        assert found == [{"generated_text": expected(prompt, least, most)} for prompt in inputs]

    @invariant()
    def slots_are_not_lost(self) -> None:
        if not self.asked:
            assert self.model.capacity() == self.slots

    def teardown(self) -> None:
        for _ in range(1000):
            if not self.asked:
                return
            self.step()
        raise AssertionError("jobs that never end")


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_request_that_is_refused_leaves_nothing_behind(tmp_path: Path):
    schema = GenerationSchema("jsonlines", streams=False, tgi_compat=False)
    model = TextGenerationModel(
        CountingStepper(2, 8), CountingTokenizer(), schema, GenerationLimits(max_tokens=8)
    )
    request = Request(
        id="r", properties=Properties({}), parts=(Part("data", b'{"inputs": ["ab", "abcdefghij"]}'),)
    )
    with pytest.raises(RequestError, match="10 tokens"):
        model.admit(1, request)
    assert model.capacity() == 2
    assert model.step() == []

"""The built-in handler's continuous batching: right tokens whoever the neighbours are, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frame.api import (
    Chunk,
    Done,
    EngineContext,
    ModelSpec,
    Part,
    Properties,
    Request,
    RequestError,
    SequenceModel,
)
from frame_python.engine import PythonEngine
from frame_python.handlers.built_in import build_text_generation
from frame_python.handlers.options import TransformersOptions
from frame_python.handlers.text_generation import TextGenerationModel
from frame_python.options import PythonOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import hf_models

MAKERS = {"gptj": hf_models.make_gptj, "llama": hf_models.make_llama, "bloom": hf_models.make_bloom}
GREEK = "καλημέρα 👋 κόσμε"


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: MAKERS[family](tmp_path_factory.mktemp(family)))


@pytest.fixture
def load(folder_of: Any) -> Callable[..., Any]:
    """Load a family's folder as a worker would."""

    def build(family: str = "llama", **options: Any) -> Any:
        given = {"max_tokens": 128, "max_rolling_batch_size": 4, **options}
        spec = ModelSpec(
            name="m", version=None, path=str(folder_of(family)), model_file=None,
            options=PythonOptions(**given), properties={},
        )  # fmt: skip
        return PythonEngine(EngineContext(devices=("cpu",))).load(spec)

    return build


def ask(inputs: Any, *, seed: int = 0, stream: Any = None, accept: str = "", **parameters: Any) -> Request:
    payload = {"inputs": inputs, "parameters": parameters}
    if stream is not None:
        payload["stream"] = stream
    headers = {"Content-Type": "application/json", **({"Accept": accept} if accept else {})}
    body = json.dumps(payload).encode()
    return Request(id="r", properties=Properties(headers), parts=(Part("data", body),), seed=seed)


def ask_form(**values: bytes) -> Request:
    parts = tuple(Part(key, value) for key, value in values.items())
    return Request(id="r", properties=Properties({}), parts=parts)


def run(model: SequenceModel, jobs: dict[int, Request], *, starts: dict[int, int] | None = None) -> Any:
    """Step until all jobs have ended; a job joins at its step. Returns answers and streams by job."""
    starts = starts or {}
    answers: dict[int, Any] = {}
    chunks: dict[int, list[bytes]] = {}
    waiting = dict(jobs)
    for step in range(2000):
        for job in [job for job in waiting if starts.get(job, 0) <= step]:
            if model.capacity() > 0:
                model.admit(job, waiting.pop(job))
        if len(answers) == len(jobs):
            break
        for event in model.step() if len(waiting) + len(answers) < len(jobs) else ():
            if isinstance(event, Chunk):
                assert event.job not in answers
                assert (event.head is not None) == (event.job not in chunks)
                chunks.setdefault(event.job, []).append(bytes(event.data))
            elif isinstance(event, Done):
                answers[event.job] = (
                    b"".join(chunks[event.job])
                    if event.response is None
                    else json.loads(body(event.response))
                )
    assert len(answers) == len(jobs)
    assert model.capacity() == 4
    return answers


def body(response: Any) -> bytes:
    return bytes(response.parts[0].data)


def greedy(folder: Path, prompt: str, count: int) -> str:
    """Return what transformers' own generate answers, without the prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = tokenizer(prompt, return_tensors="pt")
    rows = model.generate(**given, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return tokenizer.decode(rows[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("family", ["gptj", "llama", "bloom"])
def test_texts_that_join_and_leave_at_any_time_get_their_own_greedy_text(
    load: Any, folder_of: Any, family: str
):
    model = load(family)
    prompts = {
        1: ("the capital of France", 40),
        2: (GREEK, 3),
        3: ("x", 25),
        4: ("1 2 3 4", 60),
        5: ("a b", 9),
    }
    jobs = {job: ask(prompt, max_new_tokens=count) for job, (prompt, count) in prompts.items()}
    answers = run(model, jobs, starts={2: 5, 3: 6, 4: 7, 5: 30})
    for job, (prompt, count) in prompts.items():
        assert answers[job] == {"generated_text": greedy(folder_of(family), prompt, count)}


def test_the_default_is_thirty_tokens_in_djls_form(load: Any, folder_of: Any):
    answers = run(load(), {1: ask("the capital"), 2: ask(["the capital", "x"], return_full_text=True)})
    assert answers[1] == {"generated_text": greedy(folder_of("llama"), "the capital", 30)}
    assert answers[2] == [
        {"generated_text": prompt + greedy(folder_of("llama"), prompt, 30)} for prompt in ("the capital", "x")
    ]


def test_plain_text_is_a_prompt(load: Any, folder_of: Any):
    request = Request(
        id="r",
        properties=Properties({"Content-Type": "text/plain; charset=utf-8"}),
        parts=(Part("data", b"x"),),
    )
    assert run(load(), {1: request})[1] == {"generated_text": greedy(folder_of("llama"), "x", 30)}


def test_sampled_text_depends_on_its_seed_and_not_on_its_neighbours(load: Any):
    model = load()
    draw = {"do_sample": True, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "max_new_tokens": 20}
    alone = run(model, {1: ask("x y", seed=7, **draw)})[1]
    crowd = {1: ask("x y", seed=7, **draw), 2: ask("x y", seed=8, **draw), 3: ask("1 2 3")}
    crowd[4] = ask("x y", seed=7, **draw, repetition_penalty=1.5)
    together = run(model, crowd, starts={1: 4})
    assert together[1] == alone
    assert together[2] != alone
    assert together[4] != alone


def test_the_parameter_seed_wins_over_the_requests_own(load: Any):
    drawn = [run(load(), {1: ask("x y", seed=seed, do_sample=True)})[1] for seed in (3, 4)]
    fixed_body = json.dumps({"inputs": "x y", "parameters": {"do_sample": True, "seed": 3}}).encode()
    fixed = Request(id="r", properties=Properties({}), parts=(Part("data", fixed_body),), seed=4)
    assert run(load(), {1: fixed})[1] == drawn[0] != drawn[1]


@pytest.mark.parametrize("form", ["jsonlines", "sse"])
@pytest.mark.parametrize("prompt", ["the capital", GREEK])
def test_streamed_pieces_joined_are_the_whole_text(load: Any, folder_of: Any, form: str, prompt: str):
    accept = "text/event-stream" if form == "sse" else ""
    request = ask(prompt, stream=True, accept=accept, max_new_tokens=50, details=True)
    stream = run(load(), {1: request, 2: ask("x")}, starts={2: 3})[1].decode()
    lines = stream.split("\n\n" if form == "sse" else "\n")
    assert lines.pop() == ""
    found = [json.loads(line.removeprefix("data: ")) for line in lines]
    expected = greedy(folder_of("llama"), prompt, 50)
    assert "".join(line["token"]["text"] for line in found) == found[-1]["generated_text"] == expected
    assert all(set(line["token"]) == {"id", "text", "log_prob"} for line in found)
    assert [line for line in found[:-1] if "generated_text" in line] == []
    assert found[-1]["details"]["generated_tokens"] == len(found)


def test_details_name_the_end_and_the_tokens(load: Any, folder_of: Any):
    answer = run(load(), {1: ask("the capital", details=True, decoder_input_details=True, max_new_tokens=5)})[
        1
    ]
    details = answer["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 5)
    assert "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]
    folder = folder_of("llama")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("the capital")["input_ids"] + [token["id"] for token in details["tokens"]]
    with torch.inference_mode():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    given = details["prefill"] + details["tokens"]
    assert [token["id"] for token in given] == ids
    assert given[0]["log_prob"] is None
    assert [token["log_prob"] for token in given[1:]] == pytest.approx(
        [float(scores[at, token]) for at, token in enumerate(ids[1:])], abs=1e-3
    )


def test_a_stop_sequence_ends_the_text_wherever_tokens_are_cut(load: Any, folder_of: Any):
    whole = greedy(folder_of("llama"), "the capital", 40)
    stop = whole[10:14]
    model = load()
    answers = run(
        model,
        {
            1: ask("the capital", max_new_tokens=40, stop_sequences=[stop], details=True),
            2: ask("the capital", max_new_tokens=40, stop_sequences=["never there"]),
            3: ask("the capital", max_new_tokens=40, stop=stop, stream=True),
        },
    )
    expected = whole[: whole.index(stop)]
    assert answers[1]["generated_text"] == expected
    assert answers[1]["details"]["finish_reason"] == "stop_sequence"
    assert answers[2]["generated_text"] == whole
    lines = [json.loads(line) for line in answers[3].splitlines()]
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == expected


def test_an_end_token_ends_the_text_unless_more_tokens_are_asked_for(load: Any):
    model = load()
    first = run(model, {1: ask("the capital", details=True, max_new_tokens=40)})[1]["details"]["tokens"]
    end = first[7]["id"]
    model._limits = type(model._limits)(max_tokens=128, end_ids=frozenset({end}))
    at = next(index for index, token in enumerate(first) if token["id"] == end)
    answers = run(
        model,
        {
            1: ask("the capital", details=True, max_new_tokens=40),
            2: ask("the capital", details=True, max_new_tokens=40, min_new_tokens=at + 3),
        },
    )
    details = answers[1]["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("eos_token", at + 1)
    assert details["tokens"][-1]["text"] == ""
    more = answers[2]["details"]
    assert more["generated_tokens"] > at + 2
    assert [token["id"] for token in more["tokens"][:at]] == [token["id"] for token in first[:at]]
    assert end not in [token["id"] for token in more["tokens"][: at + 3]]


def test_texts_run_ahead_are_the_same(folder_of: Any, load: Any):
    """On accelerators the next step begins before the last one's tokens are read."""
    jobs = {
        1: ask("the capital", max_new_tokens=20),
        2: ask("x", max_new_tokens=4),
        3: ask("1 2 3", max_new_tokens=12, do_sample=True, seed=5),
        4: ask("a b c", max_new_tokens=9, min_new_tokens=5),
    }
    starts = {2: 2, 3: 9, 4: 3}
    plain = load()
    expected = run(plain, jobs, starts=starts)
    ahead = load()
    ahead._limits = type(ahead._limits)(max_tokens=128, runs_ahead=True, end_ids=ahead._limits.end_ids)
    assert run(ahead, jobs, starts=starts) == expected


def test_a_cancelled_text_frees_its_slot_at_once(load: Any, folder_of: Any):
    model = load()
    for job in range(4):
        model.admit(job, ask("x", max_new_tokens=100))
    assert model.capacity() == 0
    model.step()
    model.cancel(2)
    model.cancel(77)
    assert model.capacity() == 1
    model.admit(9, ask("the capital", max_new_tokens=6))
    done = {}
    while 9 not in done:
        done |= {event.job: event for event in model.step() if isinstance(event, Done)}
    text = json.loads(body(done[9].response))["generated_text"]
    assert text == greedy(folder_of("llama"), "the capital", 6)
    for job in (0, 1, 3):
        model.cancel(job)
    assert model.capacity() == 4


def test_more_texts_than_slots_wait_for_their_turn(load: Any, folder_of: Any):
    texts = [f"{index} apples" for index in range(9)]
    answers = run(load(), {1: ask(texts, max_new_tokens=3)})[1]
    assert answers == [{"generated_text": greedy(folder_of("llama"), text, 3)} for text in texts]


def test_a_long_prompt_is_taken_in_pieces_between_the_steps_of_others(load: Any, folder_of: Any):
    model: TextGenerationModel = load()
    model._limits = type(model._limits)(max_tokens=128, prefill_tokens=5)
    prompt = "many words " * 8
    answers = run(model, {1: ask("x", max_new_tokens=30), 2: ask(prompt, max_new_tokens=4)}, starts={2: 3})
    assert answers[2]["generated_text"] == greedy(folder_of("llama"), prompt, 4)
    assert answers[1]["generated_text"] == greedy(folder_of("llama"), "x", 30)


def test_the_text_ends_where_the_models_length_ends(load: Any):
    answer = run(load(max_tokens=16), {1: ask("x", max_new_tokens=500, details=True)})[1]
    assert answer["details"]["finish_reason"] == "length"
    assert answer["details"]["generated_tokens"] == 15


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ask(""), "empty"),
        (ask([]), "empty"),
        (ask(["a", 3]), "inputs"),
        (ask({"text": "x"}), "inputs"),
        (ask("word " * 200), "option.max_tokens"),
        (ask("x", temperature="hot"), "parameters.temperature"),
        (ask("x", temperature=-1), "parameters.temperature"),
        (ask("x", top_p=0), "parameters.top_p"),
        (ask("x", top_k=1.5), "parameters.top_k"),
        (ask("x", max_new_tokens=0), "parameters.max_new_tokens"),
        (ask("x", max_new_tokens=True), "parameters.max_new_tokens"),
        (ask("x", do_sample="yes"), "parameters.do_sample"),
        (ask("x", num_beams=4), "parameters.num_beams=4: not supported here; supported: max_new_tokens"),
        (ask("x", best_of=2), "parameters.best_of"),
        (ask("x", stop_sequences=[""]), "parameters.stop_sequences"),
        (ask("x", stream="yes"), "stream"),
        (ask(["x", "y"], stream=True), "one text at a time"),
        (Request(id="r", properties=Properties({}), parts=(Part("data", b"{"),)), "not JSON"),
        (Request(id="r", properties=Properties({}), parts=(Part("data", b""),)), "empty"),
        (Request(id="r", properties=Properties({}), parts=(Part("data", b'{"a":1}'),)), "inputs: missing"),
        (ask_form(inputs=b"x", parameters=b"3"), "parameters"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name_and_takes_no_slot(load: Any, request_: Request, said: str):
    model = load()
    with pytest.raises(RequestError) as caught:
        model.admit(1, request_)
    assert caught.value.status == 400
    assert said in caught.value.message
    assert model.capacity() == 4


def test_what_changes_nothing_and_what_nobody_knows_is_no_error(load: Any):
    model = load()
    plain = run(model, {1: ask("x")})[1]
    assert (
        run(model, {1: ask("x", num_beams=1, best_of=1, watermark=False, my_own=3, truncate=None)})[1]
        == plain
    )


def test_truncate_keeps_the_end_of_the_prompt(load: Any):
    model = load()
    long = "word " * 200 + "the capital"
    tokenizer = model._tokenizer
    count = len(tokenizer("the capital")["input_ids"])
    assert run(model, {1: ask(long, truncate=count)})[1] == run(model, {1: ask(tokenizer.decode(
        tokenizer(long)["input_ids"][-count:]))})[1]  # fmt: skip


def test_tgi_compat_wraps_answers_and_names_fields_as_tgi_does(load: Any, folder_of: Any):
    model = load(tgi_compat=True)
    answers = run(
        model, {1: ask("x", max_new_tokens=3, details=True), 2: ask("x", max_new_tokens=3, stream=True)}
    )
    assert answers[1][0]["generated_text"] == greedy(folder_of("llama"), "x", 3)
    assert set(answers[1][0]["details"]["tokens"][0]) == {"id", "text", "logprob", "special"}
    events = [json.loads(event.removeprefix("data: ")) for event in answers[2].decode().split("\n\n")[:-1]]
    assert events[0]["generated_text"] is None
    assert events[-1]["generated_text"] == answers[1][0]["generated_text"]


def test_the_digest_tells_other_tokens_apart(load: Any):
    def digests(prompt: str) -> list[int]:
        model = load()
        model.admit(1, ask(prompt, max_new_tokens=8))
        found = []
        while model.capacity() < 4:
            model.step()
            found.append(model.digest())
        return found

    first, second, other = digests("the capital"), digests("the capital"), digests("x")
    assert first == second
    assert first[-1] != other[-1]
    assert all(0 <= value < 2**64 for value in first)


def test_a_stepper_that_is_wrong_is_not_used(folder_of: Any):
    from frame_python.handlers.built_in import choose_stepper
    from frame_python.handlers.loading import load_transformer
    from frame_python.handlers.stepping import EagerStepper, SoloStepper

    class OffByOne(EagerStepper):
        """A cache that is off by one."""

        def begin(self, active: Any, tokens: Any = None) -> None:
            for slot in active:
                self._filled[slot] += self._filled[slot] == 3
            super().begin(active, tokens)

    options = TransformersOptions(max_tokens=64, max_rolling_batch_size=3)
    loaded = load_transformer(options, str(folder_of("gptj")), torch.device("cpu"))
    assert isinstance(choose_stepper(loaded, 3, [OffByOne, EagerStepper]), EagerStepper)
    assert isinstance(choose_stepper(loaded, 3, [OffByOne, SoloStepper]), SoloStepper)
    with pytest.raises(ValueError, match=r"OffByOne: .* tokens are wrong: .*rolling_batch=disable"):
        build_text_generation(loaded, options, [OffByOne])

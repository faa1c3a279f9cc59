"""The built-in handler's other tasks: an answer is what transformers gives for that text alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frame.api import EngineContext, Model, ModelSpec, Part, Properties, Request, RequestError, Response
from frame_python.engine import PythonEngine
from frame_python.options import PythonOptions
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from tests import hf_models

SENTENCES = ["the capital of France is Paris", "a server answers many requests at the same time", "Berlin"]
MASKED = [
    "the capital of [MASK] is Paris",
    "a [MASK] answers many requests at the same time , each with words",
]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a BERT with a head, or of another family."""

    @cache
    def make(head: str) -> Path:
        folder = tmp_path_factory.mktemp(head)
        if head in {"gptj", "t5"}:
            return {"gptj": hf_models.make_gptj, "t5": hf_models.make_t5}[head](folder)
        return hf_models.make_bert(folder, head=head)

    return make


@pytest.fixture
def load(folder_of: Any) -> Callable[..., Model]:
    def build(head: str, *, batch_size: int = 8, **options: Any) -> Model:
        spec = ModelSpec(
            name="m", version=None, path=str(folder_of(head)), model_file=None,
            options=PythonOptions(**options), properties={}, batch_size=batch_size,
        )  # fmt: skip
        return PythonEngine(EngineContext(devices=("cpu",))).load(spec)

    return build


def ask(inputs: Any, **parameters: Any) -> Request:
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return Request(id="r", properties=Properties({}), parts=(Part("data", body),))


def answers_of(model: Model, *requests: Request) -> list[Any]:
    found = []
    for answer in model.predict(requests):
        assert isinstance(answer, Response), answer
        found.append(json.loads(bytes(answer.parts[0].data)))
    return found


def close_to(value: Any) -> Any:
    """Return nested JSON values with numbers that may differ by rounding."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {key: close_to(item) for key, item in value.items()}
    return [close_to(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("head", "task", "texts", "parameters"),
    [
        ("ForSequenceClassification", "text-classification", SENTENCES, {}),
        ("ForSequenceClassification", "text-classification", SENTENCES, {"top_k": 2}),
        ("ForSequenceClassification", "text-classification", SENTENCES, {"function_to_apply": "none"}),
        ("ForTokenClassification", "token-classification", SENTENCES, {}),
        ("ForTokenClassification", "token-classification", SENTENCES, {"aggregation_strategy": "simple"}),
        ("ForMaskedLM", "fill-mask", MASKED, {}),
        ("ForMaskedLM", "fill-mask", MASKED, {"top_k": 2}),
    ],
)
def test_answers_of_a_batch_are_transformers_own_for_each_text(
    load: Any, folder_of: Any, head: str, task: str, texts: list[str], parameters: dict[str, Any]
):
    alone = pipeline(task, model=str(folder_of(head)), device="cpu")
    expected = [json.loads(json.dumps(alone(text, **parameters), default=float)) for text in texts]
    found = answers_of(load(head), *[ask(text, **parameters) for text in texts])
    assert found == close_to(expected)


def test_a_list_of_inputs_gets_a_list_and_parameters_differ_within_a_batch(load: Any):
    model = load("ForSequenceClassification")
    whole, first, second = answers_of(model, ask(SENTENCES), ask(SENTENCES[0]), ask(SENTENCES[1], top_k=3))
    assert whole[0] == close_to(first[0])
    assert whole[1] == close_to(second[0])
    assert (len(whole), len(first), len(second)) == (3, 1, 3)


def test_one_requests_error_is_its_own(load: Any):
    model = load("ForMaskedLM")
    requests = [
        ask(MASKED[0]),
        ask("no mask here"),
        ask({"a": 1}),
        ask(MASKED[0], colour="red"),
        ask(MASKED[1]),
    ]
    answers = model.predict([*requests, ask("[MASK]" + " word" * 300), ask([])])
    assert [isinstance(answer, RequestError) for answer in answers] == [
        False,
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    messages = [answer.message for answer in answers if isinstance(answer, RequestError)]
    assert all(answer.status == 400 for answer in answers if isinstance(answer, RequestError))
    for message, said in zip(
        messages, ["mask_token", "expected a text", "colour", "shorten it", "empty"], strict=True
    ):
        assert said in message


@pytest.mark.filterwarnings("ignore")
def test_embeddings_are_means_over_each_texts_own_tokens(load: Any, folder_of: Any):
    folder = folder_of("Model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    found = answers_of(load("Model"), *[ask(text) for text in SENTENCES], ask(SENTENCES, normalize=True))
    for text, vector, unit in zip(SENTENCES, found, found[3], strict=False):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = states.mean(dim=0)
        assert vector == pytest.approx(expected.tolist(), abs=1e-4)
        assert unit == pytest.approx((expected / expected.norm()).tolist(), abs=1e-5)
    [features] = answers_of(load("Model", task="feature-extraction"), ask(SENTENCES[2]))
    assert features[0] == close_to(states.tolist())


def test_the_answer_to_a_question_is_the_likeliest_span_of_all_windows(load: Any, folder_of: Any):
    model = load("ForQuestionAnswering")
    question = "which server ?"
    contexts = [SENTENCES[1], " ".join(SENTENCES) * 20]
    found = answers_of(model, *[ask({"question": question, "context": context}) for context in contexts])
    for context, answer in zip(contexts, found, strict=True):
        assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
        assert 0 < answer["score"] <= 1
    [several] = answers_of(model, ask([{"question": question, "context": SENTENCES[1]}], top_k=3))
    assert several[0][0] == close_to(found[0])
    assert several[0][0]["score"] >= several[0][1]["score"] >= several[0][2]["score"]
    body = json.dumps({"question": question, "context": SENTENCES[1]}).encode()
    without_inputs = Request(id="r", properties=Properties({}), parts=(Part("data", body),))
    assert answers_of(model, without_inputs) == [close_to(found[0])]
    [error] = model.predict([ask("no context")])
    assert isinstance(error, RequestError)


def test_static_batches_answer_with_the_prompt_in_a_list(load: Any, folder_of: Any):
    rolling = load("gptj", batch_size=1, max_tokens=128)
    static = load("gptj", batch_size=8, max_tokens=128)
    disabled = load("gptj", batch_size=1, rolling_batch="disable", max_tokens=128)
    expected = []
    for job, text in enumerate(SENTENCES):
        rolling.admit(job, ask(text, max_new_tokens=5 + job))
        [done] = [event for _ in range(40) if rolling.capacity() < 32 for event in rolling.step()]
        answer = json.loads(bytes(done.response.parts[0].data))["generated_text"]
        expected.append([{"generated_text": text + answer}])
    requests = [ask(text, max_new_tokens=5 + job) for job, text in enumerate(SENTENCES)]
    assert answers_of(static, *requests) == expected
    assert answers_of(disabled, *requests) == expected
    assert answers_of(static, ask(SENTENCES, max_new_tokens=5), ask("x", num_beams=2))[0][0] == expected[0][0]


def test_static_sampling_depends_on_the_seed_alone(load: Any):
    model = load("gptj", max_tokens=128)
    draw = ask("x", do_sample=True, seed=4, max_new_tokens=9)
    [alone] = answers_of(model, draw)
    assert answers_of(model, ask("x"), draw, ask("x", do_sample=True, seed=5))[1] == alone
    answers = model.predict([ask("x", details=True), ask("x", do_sample=True, num_beams=0), ask("x")])
    assert [isinstance(answer, RequestError) for answer in answers] == [True, True, False]


def test_text_to_text_answers_without_the_prompt(load: Any, folder_of: Any):
    folder = folder_of("t5")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    expected = []
    for text in SENTENCES:
        rows = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=7, do_sample=False)
        expected.append([{"generated_text": tokenizer.decode(rows[0], skip_special_tokens=True)}])
    requests = [ask(text, max_new_tokens=7) for text in SENTENCES]
    assert answers_of(load("t5", max_tokens=128), *requests) == expected

"""The built-in handler behind the server: streams and whole answers at once, and clients that go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from frame.testing import Server, run_server
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import hf_models
from tests.process.probes import DEADLINE

PROMPTS = {f"{number} little texts 👋": 4 + 9 * number % 40 for number in range(12)}
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two models of one folder: requests join and leave, or run in batches to their end."""
    root = tmp_path_factory.mktemp("store")
    weights = hf_models.make_llama(root.parent / f"{root.name}-weights")
    for name, lines in {
        "rolling": ["option.max_rolling_batch_size=4"],
        "static": ["batch_size=4", "max_batch_delay=20"],
    }.items():
        (root / name).mkdir()
        shared = [f"option.model_id={weights}", "option.max_tokens=128", "minWorkers=1", "maxWorkers=1"]
        (root / name / "serving.properties").write_text("\n".join([*shared, *lines]))
    return root


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with run_server(store, environ={"OMP_NUM_THREADS": "1"}, timeout=60) as running:
        yield running


@pytest.fixture(scope="module")
def expected(store: Path) -> dict[str, str]:
    """Return what transformers' own generate answers to each prompt alone."""
    folder = (store / "rolling" / "serving.properties").read_text().split("\n")[0].split("=", 1)[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}
    for prompt, count in PROMPTS.items():
        given = tokenizer(prompt, return_tensors="pt")
        rows = model.generate(**given, max_new_tokens=count, do_sample=False, pad_token_id=0)
        found[prompt] = tokenizer.decode(rows[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def payload(prompt: str, *, stream: bool = False, count: int | None = None) -> dict[str, object]:
    return {
        "inputs": prompt,
        "parameters": {"max_new_tokens": PROMPTS[prompt] if count is None else count},
        "stream": stream,
    }


def test_streams_and_whole_answers_run_together_and_each_is_its_own(server: Server, expected: dict[str, str]):
    def ask(numbered: tuple[int, str]) -> str:
        number, prompt = numbered
        with httpx.stream(
            "POST",
            f"{server.url}/predictions/rolling",
            json=payload(prompt, stream=number % 2 == 0),
            timeout=DEADLINE,
        ) as answer:
            assert answer.status_code == 200
            lines = [json.loads(line) for line in answer.iter_lines()]
        if number % 2 == 0:
            assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"]
            assert answer.headers["content-type"] == "application/jsonlines"
        return lines[-1]["generated_text"]

    with ThreadPoolExecutor(len(PROMPTS)) as clients:
        found = list(clients.map(ask, enumerate(PROMPTS)))
    assert dict(zip(PROMPTS, found, strict=True)) == expected


def test_a_client_that_goes_away_frees_its_place(server: Server, expected: dict[str, str]):
    prompt = next(iter(PROMPTS))
    for _ in range(8):
        request = payload(prompt, stream=True, count=100)
        with httpx.stream(
            "POST", f"{server.url}/predictions/rolling", json=request, timeout=DEADLINE
        ) as answer:
            next(answer.iter_lines())
    whole = httpx.post(f"{server.url}/predictions/rolling", json=payload(prompt), timeout=DEADLINE)
    assert whole.json() == {"generated_text": expected[prompt]}


def test_static_batches_answer_the_same_texts_in_djls_other_form(server: Server, expected: dict[str, str]):
    def ask(prompt: str) -> object:
        return httpx.post(f"{server.url}/predictions/static", json=payload(prompt), timeout=DEADLINE).json()

    with ThreadPoolExecutor(len(PROMPTS)) as clients:
        found = list(clients.map(ask, PROMPTS))
    assert found == [[{"generated_text": prompt + expected[prompt]}] for prompt in PROMPTS]


def test_events_are_sent_to_those_who_accept_them_and_errors_name_the_parameter(server: Server):
    url, prompt = f"{server.url}/predictions/rolling", next(iter(PROMPTS))
    events = httpx.post(
        url, json=payload(prompt, stream=True), headers={"Accept": "text/event-stream"}, timeout=DEADLINE
    )
    assert events.headers["content-type"] == "text/event-stream"
    assert events.text.startswith("data: {")
    assert events.text.endswith("}\n\n")
    refused = httpx.post(url, json={"inputs": "x", "parameters": {"top_p": 3}}, timeout=DEADLINE)
    assert refused.status_code == 400
    assert "parameters.top_p=3: expected a number > 0 and <= 1" in refused.json()["message"]

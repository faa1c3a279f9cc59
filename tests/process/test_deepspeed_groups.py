"""Models cut over two and four ranks, served without code: their tokens are those of the whole model."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from frame.testing import Server, run_server

from tests import hf_models

TOKENS = 12
PROMPTS = (
    "the capital of France",
    "once upon a time",
    "a",
    "many requests at the same time, each",
    "café 你",
)
ENVIRON = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
START = 120.0
"""Seconds for nine processes to import torch on two cores, at most."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and what its models must say."""

    server: Server
    expected: dict[str, dict[str, list[int]]]
    """Model -> prompt -> the tokens that the whole model generates."""

    def ask(self, model: str, prompt: str, **parameters: Any) -> httpx.Response:
        """Generate greedily."""
        given = {"max_new_tokens": TOKENS, "details": True, **parameters}
        body = {"inputs": prompt, "parameters": given}
        return httpx.post(f"{self.server.url}/predictions/{model}", json=body, timeout=60)

    def pids(self, model: str) -> list[int]:
        """Return the pids of a model's ranks, in order, as described."""
        described = httpx.get(f"{self.server.url}/models/{model}", timeout=10).json()
        groups = described[0]["models"][0]["workerGroups"]
        workers = [worker for group in groups for worker in group["workers"]]
        return [rank["pid"] for worker in workers for rank in worker.get("ranks", [])]


def put(store: Path, name: str, make: Callable[..., Path], properties: str, **sizes: Any) -> Path:
    """Make a model folder of the store."""
    folder = store / name
    folder.mkdir()
    make(folder, **sizes)
    common = "engine=DeepSpeed\noption.all_reduce=gloo\noption.dtype=fp32\noption.max_tokens=128\n"
    (folder / "serving.properties").write_text(
        f"{common}option.max_rolling_batch_size=4\nminWorkers=1\nmaxWorkers=1\n{properties}"
    )
    return folder


def whole_tokens(folder: Path) -> dict[str, list[int]]:
    """Return what `generate` of the whole model says after each prompt, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt").input_ids
        answer = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=TOKENS,
            pad_token_id=0,
        )
        found[prompt] = answer[0, given.shape[1] :].tolist()
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a GPT-J on two ranks, a Llama on four and an encoder on two, all on the CPU."""
    store = tmp_path_factory.mktemp("store")
    two, four = (
        "option.tensor_parallel_degree=2\n",
        "option.tensor_parallel_degree=4\noption.launcher=spawn\n",
    )
    gptj = put(store, "gptj", hf_models.make_gptj, two)
    llama = put(store, "llama", hf_models.make_llama, four, num_attention_heads=8, num_key_value_heads=4)
    put(store, "bert", hf_models.make_bert, f"{two}option.launcher=spawn\n")
    expected = {"gptj": whole_tokens(gptj), "llama": whole_tokens(llama)}
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with run_server(store, environ={**ENVIRON, **cache}, timeout=START) as server:
        yield Served(server, expected)


pytestmark = pytest.mark.slow(180)


@pytest.mark.parametrize("model", ["gptj", "llama"])
def test_tokens_are_those_of_the_whole_model(served: Served, model: str) -> None:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = dict(zip(PROMPTS, pool.map(lambda prompt: served.ask(model, prompt), PROMPTS), strict=True))
    for prompt, answer in answers.items():
        assert answer.status_code == 200, answer.text
        tokens = [token["id"] for token in answer.json()["details"]["tokens"]]
        assert tokens == served.expected[model][prompt]


def test_two_groups_answer_at_once(served: Served) -> None:
    orders = [(model, prompt) for prompt in PROMPTS for model in ("gptj", "llama")] * 2
    with ThreadPoolExecutor(len(orders)) as pool:
        answers = list(pool.map(lambda order: served.ask(*order), orders))
    for (model, prompt), answer in zip(orders, answers, strict=True):
        tokens = [token["id"] for token in answer.json()["details"]["tokens"]]
        assert tokens == served.expected[model][prompt]


def test_ranks_are_described_and_were_checked(served: Served) -> None:
    assert len(set(served.pids("gptj"))) == 2
    assert len(set(served.pids("llama"))) == 4
    for model in ("gptj", "llama", "bert"):
        served.server.wait_for_log(rf"self_check model={model} result=passed tokens=\d+")


def test_stream_is_cut_into_the_same_tokens(served: Served) -> None:
    url = f"{served.server.url}/predictions/llama"
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": TOKENS}, "stream": True}
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        lines = [json.loads(line) for line in answer.iter_lines() if line]
    assert [line["token"]["id"] for line in lines] == served.expected["llama"][PROMPTS[0]]


def test_sampled_text_follows_its_seed(served: Served) -> None:
    def sample(seed: int) -> str:
        answer = served.ask("gptj", PROMPTS[1], do_sample=True, temperature=2.0, seed=seed)
        return str(answer.json()["generated_text"])

    assert sample(5) == sample(5)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_encoder_answers(served: Served) -> None:
    url = f"{served.server.url}/predictions/bert"
    alone = [httpx.post(url, json={"inputs": prompt}, timeout=60).json() for prompt in PROMPTS]
    together = httpx.post(url, json={"inputs": list(PROMPTS)}, timeout=60).json()
    assert len(together) == len(PROMPTS)
    assert all("label" in str(answer) for answer in alone)


@dataclass(slots=True)
class Load:
    """Clients that ask until told to stop, and what they got."""

    served: Served
    stop: threading.Event = field(default_factory=threading.Event)
    right: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, prompt: str) -> None:
        """Ask one prompt again and again."""
        while not self.stop.is_set():
            answer = self.served.ask("gptj", prompt)
            if answer.status_code == 503:
                self.refused += 1
                self.stop.wait(0.05)
                continue
            tokens = [token["id"] for token in answer.json().get("details", {}).get("tokens", [])]
            if answer.status_code == 200 and tokens == self.served.expected["gptj"][prompt]:
                self.right += 1
            else:
                self.wrong.append(f"{answer.status_code} {answer.text}")


def until(condition: Callable[[], object], seconds: float = START) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def test_group_whose_rank_is_killed_under_load_comes_back_as_one(served: Served) -> None:
    before, load = served.pids("gptj"), Load(served)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(load.run, prompt) for prompt in PROMPTS[:2]]
        try:
            until(lambda: load.right >= 2)
            os.kill(before[1], signal.SIGKILL)
            until(lambda: len(served.pids("gptj")) == 2 and not set(served.pids("gptj")) & set(before))
            answered = load.right
            until(lambda: load.right > answered)
        finally:
            load.stop.set()
        for future in running:
            future.result()
    assert load.wrong == []
    for pid in before:
        assert not Path(f"/proc/{pid}").exists()

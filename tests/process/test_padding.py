"""Requests of different lengths on a real encoder: run together, each is answered as it is alone."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from frame.testing import Server, run_server
from frame.worker.codecs import ndlist

from tests.process.probes import DEADLINE, JSON, describe, error_of, metric, put_model, until

EXAMPLES = Path(__file__).parents[2] / "examples"
TENSORS = "input_ids:int64[-1,-1],attention_mask:int64[-1,-1]"
LENGTHS = (3, 12, 5, 20, 8, 1, 17, 9)
TOLERANCE = 1e-5
pytestmark = pytest.mark.slow(300)


def put_encoder(folder: Path, model: Path, **properties: object) -> None:
    """Serve the sentence encoder of the example store with other settings."""
    common = {"engine": "torchscript", "option__inputs": TENSORS, "minWorkers": 1, "maxWorkers": 1}
    put_model(folder, **common, option__outputs="embedding:float32[-1,384]", **properties)
    (folder / "model.pt").symlink_to(model)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve one encoder: unpadded, padded to the batch, to fixed lengths, and within a budget of elements."""
    built = subprocess.run(
        [sys.executable, str(EXAMPLES / "build_store.py"), "minilm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    model = EXAMPLES / "model_store" / "minilm" / "model.pt"
    store = tmp_path_factory.mktemp("store")
    padded = {"pad_to": "batch", "pad_mask": "attention_mask"}
    put_encoder(store / "apart", model, batch_size=8, max_batch_delay=20)
    put_encoder(store / "padded", model, batch_size=len(LENGTHS), max_batch_delay=5000, **padded)
    put_encoder(store / "loaded", model, batch_size=8, max_batch_delay=200, **padded)
    put_encoder(store / "budget", model, max_batch_elements=64, max_batch_delay=300, **padded)
    fixed = {"pad_to": "8,16", "pad_mask": "attention_mask"}
    put_encoder(store / "fixed", model, batch_size=4, max_batch_delay=5000, **fixed)
    put_encoder(store / "misnamed", model, pad_to="batch", pad_values="ids=1", retry_threshold=0)
    with run_server(store, timeout=240) as running:
        yield running


def ids_of(length: int, seed: int) -> list[int]:
    """Return token ids between the encoder's start and end tokens."""
    chosen = random.Random(seed)
    return [101, *(chosen.randrange(2000, 20000) for _ in range(length)), 102]


def embed(server: Server, model: str, ids: list[int], *, sends_mask: bool = False) -> httpx.Response:
    """Ask for the embedding of one sentence."""
    inputs = {"input_ids": [ids]}
    if sends_mask:
        inputs["attention_mask"] = [[1] * len(ids)]
    url, headers = f"{server.url}/predictions/{model}", {**JSON, "x-frame-timings": "yes"}
    return httpx.post(url, json={"inputs": inputs}, headers=headers, timeout=4 * DEADLINE)


def together(
    server: Server, model: str, sentences: list[list[int]], threads: int = 8
) -> list[httpx.Response]:
    """Send them at the same time, the mask in every second one."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [
            pool.submit(embed, server, model, ids, sends_mask=index % 2 == 0 or model == "apart")
            for index, ids in enumerate(sentences)
        ]
        return [future.result() for future in futures]


def vector(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["predictions"])


@pytest.fixture(scope="module")
def alone(server: Server) -> dict[tuple[int, ...], Any]:
    """Return the embeddings of all sentences used here, each asked for alone, unpadded."""
    pairs = [(length, seed) for length in (*LENGTHS, 6, 14, 30) for seed in range(4)]
    sentences = [ids_of(length, seed) for length, seed in pairs]
    return {tuple(ids): vector(embed(server, "apart", ids, sends_mask=True)) for ids in sentences}


def assert_same_as_alone(
    alone: dict[tuple[int, ...], Any], sentences: list[list[int]], answers: list[httpx.Response]
) -> None:
    for ids, answer in zip(sentences, answers, strict=True):
        np.testing.assert_allclose(vector(answer), alone[tuple(ids)], atol=TOLERANCE)


def test_two_interleaved_shapes_are_batched_each_by_itself_and_no_batch_is_split(
    server: Server, alone: dict[tuple[int, ...], Any]
) -> None:
    sentences = [ids_of((6, 14)[number % 2], number // 2 % 4) for number in range(64)]
    answers = together(server, "apart", sentences, threads=16)
    assert_same_as_alone(alone, sentences, answers)
    assert metric(server, "frame_batch_splits_total", model="apart") == 0
    assert max(int(answer.headers["x-frame-batch-size"]) for answer in answers) > 1


def test_padded_to_the_batch_all_lengths_run_in_one_call_with_the_answers_they_get_alone(
    server: Server, alone: dict[tuple[int, ...], Any]
) -> None:
    sentences = [ids_of(length, 0) for length in LENGTHS]
    answers = together(server, "padded", sentences)
    assert {answer.headers["x-frame-batch-size"] for answer in answers} == {str(len(LENGTHS))}
    assert metric(server, "frame_batch_splits_total", model="padded") == 0
    assert_same_as_alone(alone, sentences, answers)


def test_padded_batches_under_load_are_shared_and_never_split(
    server: Server, alone: dict[tuple[int, ...], Any]
) -> None:
    sentences = [ids_of(LENGTHS[number % len(LENGTHS)], number % 4) for number in range(128)]
    answers = together(server, "loaded", sentences, threads=16)
    assert_same_as_alone(alone, sentences, answers)
    assert metric(server, "frame_batch_splits_total", model="loaded") == 0
    assert metric(server, "frame_batch_size_count", model="loaded") < len(sentences) / 2


def test_json_and_binary_bodies_run_together(server: Server, alone: dict[tuple[int, ...], Any]) -> None:
    sentences = [ids_of(length, 1) for length in LENGTHS]

    def send(index: int) -> httpx.Response:
        ids = sentences[index]
        if index % 2:
            return embed(server, "padded", ids)
        body = ndlist.dumps([(None, np.array([ids]))])
        headers = {"content-type": "tensor/ndlist", "accept": "application/json", "x-frame-timings": "yes"}
        url = f"{server.url}/predictions/padded"
        return httpx.post(url, content=body, headers=headers, timeout=4 * DEADLINE)

    with ThreadPoolExecutor(len(LENGTHS)) as pool:
        answers = list(pool.map(send, range(len(LENGTHS))))
    assert {answer.headers["x-frame-batch-size"] for answer in answers} == {str(len(LENGTHS))}
    assert_same_as_alone(alone, sentences, answers)


def test_a_batch_holds_no_more_padded_elements_than_its_budget(
    server: Server, alone: dict[tuple[int, ...], Any]
) -> None:
    sentences = [ids_of(length, seed) for length in (14, 6) for seed in range(4)]  # 16 and 8 tokens each
    answers = together(server, "budget", sentences)
    assert_same_as_alone(alone, sentences, answers)
    sizes = [int(answer.headers["x-frame-batch-size"]) for answer in answers]
    assert max(sizes[:4]) <= 64 / 16
    assert max(sizes) <= 64 / 8
    assert max(sizes) > 1


def test_requests_of_one_fixed_length_share_a_batch_and_longer_ones_are_refused(
    server: Server, alone: dict[tuple[int, ...], Any]
) -> None:
    sentences = [ids_of(length, 0) for length in (3, 5, 1, 6)]  # 5, 7, 3 and 8 tokens
    answers = together(server, "fixed", sentences)
    assert {answer.headers["x-frame-batch-size"] for answer in answers} == {"4"}
    assert_same_as_alone(alone, sentences, answers)
    code, kind, message = error_of(embed(server, "fixed", ids_of(30, 0)))
    assert (code, kind) == (400, "BadRequestError")
    assert "input_ids" in message
    assert "up to 16" in message


def test_padding_that_names_an_input_the_model_has_not_fails_the_load_and_says_which_it_has(
    server: Server,
) -> None:
    found = until(lambda: describe(server, "misnamed").get("reason"), what="a reason")
    assert "no input ids; its inputs are input_ids, attention_mask" in found

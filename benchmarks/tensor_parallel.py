"""A model cut over two ranks beside the whole one, on two CPU cores, through the server and without it.

Usage: python benchmarks/tensor_parallel.py [--rounds 3] [--requests 4] [--tokens 64]

A GPT-J of 44 million random parameters (6 layers, 768 wide) generates greedily, one request at a time, one
thread a rank: whole, cut over two ranks that add up their parts in shared memory, and cut over two that do it
through gloo. `raw` is DeepSpeed and `model.generate` in a loop, `served` is `frame serve` and
HTTP. Prints tokens per second, median over the rounds with the spread, and the ratio to the whole model
of its own kind. The answers of all served ones must be the same text. Needs g++ and ninja: DeepSpeed compiles
its shared-memory operator on first use (about 45 s), before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frame.testing import run_server
from load import free_port, median_spread, post

PROMPT = "Sharded over two ranks, a model "
SIZES = {"n_embd": 768, "n_layer": 6, "n_head": 12, "rotary_dim": 64, "n_positions": 512}
LOAD_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Way:
    """How the model is cut: over how many ranks, and what adds up their parts."""

    degree: int
    all_reduce: str

    def __str__(self) -> str:
        return "whole" if self.degree == 1 else f"{self.degree} ranks, {self.all_reduce}"


WAYS = (Way(1, "gloo"), Way(2, "shm"), Way(2, "gloo"))


def make_model(folder: Path) -> None:
    """Save the model and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: index + 1 for index, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    # No token of the vocabulary ends a text: every answer has as many tokens as were asked for.
    config = GPTJConfig(vocab_size=384, bos_token_id=383, eos_token_id=383, initializer_range=0.1, **SIZES)
    GPTJForCausalLM(config).save_pretrained(folder)


# --- without the server -------------------------------------------------------------------------


def run_raw(folder: str, all_reduce: str, tokens: int, requests: int) -> None:
    """Be one rank of the raw loop; rank 0 prints tokens per second."""
    import deepspeed
    import torch
    from frame_deepspeed.collectives import choose_when_joining
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    choose_when_joining(sys.modules["deepspeed.comm.torch"], all_reduce, has_gpu=False)
    degree = int(os.environ["WORLD_SIZE"])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if degree > 1:
        config = {"dtype": torch.float32, "tensor_parallel": {"tp_size": degree}}
        model = deepspeed.init_inference(model, config=config).module
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    times = []
    for _ in range(requests + 1):
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                max_new_tokens=tokens, min_new_tokens=tokens,
            )  # fmt: skip
        times.append(time.perf_counter() - began)
    if os.environ["RANK"] == "0":
        sys.stdout.write(f"RATE {tokens * requests / sum(times[1:])}\n")


def raw_rate(folder: Path, way: Way, given: argparse.Namespace) -> float:
    """Run the raw loop in processes of its own; return tokens per second."""
    shared = {
        "WORLD_SIZE": str(way.degree), "LOCAL_SIZE": str(way.degree), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    arguments = ["--raw", str(folder), way.all_reduce, str(given.tokens), str(given.requests)]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(way.degree)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    found = [line for line in said[0].splitlines() if line.startswith("RATE ")]
    if not found:
        sys.exit(f"the raw loop of {way} failed: run it with {' '.join(arguments)}")
    return float(found[0].split()[1])


# --- through the server -------------------------------------------------------------------------


@contextmanager
def served(folder: Path, way: Way) -> Iterator[str]:
    """Serve the model cut in this way; give the URL of its predictions."""
    with tempfile.TemporaryDirectory() as store:
        model = Path(store, "gptj")
        model.mkdir()
        (model / "serving.properties").write_text(
            f"engine=DeepSpeed\noption.model_id={folder}\noption.tensor_parallel_degree={way.degree}\n"
            f"option.all_reduce={way.all_reduce}\noption.dtype=fp32\noption.max_tokens=256\n"
            "option.max_rolling_batch_size=4\nminWorkers=1\nmaxWorkers=1\n"
        )
        environ = {"SERVING_CPU_THREADS": str(way.degree), "HF_HUB_OFFLINE": "1"}
        with run_server(store, environ=environ, timeout=LOAD_SECONDS) as server:
            yield f"{server.url}/predictions/gptj"


def served_rate(url: str, given: argparse.Namespace) -> tuple[float, str]:
    """Return tokens per second of requests one after the other, and the text that all of them had."""
    parameters = {"max_new_tokens": given.tokens, "details": True}
    body = json.dumps({"inputs": PROMPT, "parameters": parameters}).encode()
    texts = {json.loads(post(url, body, "application/json"))["generated_text"]}
    began = time.perf_counter()
    count = 0
    for _ in range(given.requests):
        answer = json.loads(post(url, body, "application/json"))
        texts.add(answer["generated_text"])
        count += answer["details"]["generated_tokens"]
    rate = count / (time.perf_counter() - began)
    if len(texts) != 1:
        sys.exit("the same request got different answers")
    return rate, texts.pop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    raw: dict[Way, list[float]] = {way: [] for way in WAYS}
    through: dict[Way, list[float]] = {way: [] for way in WAYS}
    texts: set[str] = set()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_model(folder)
        raw_rate(folder, WAYS[1], argparse.Namespace(tokens=2, requests=1))  # compiles the operator
        for _ in range(given.rounds):
            for way in WAYS:
                raw[way].append(raw_rate(folder, way, given))
                with served(folder, way) as url:
                    rate, text = served_rate(url, given)
                through[way].append(rate)
                texts.add(text)
    print(f"{'':16}{'raw tokens/s':>24}{'ratio':>8}{'served tokens/s':>26}{'ratio':>8}{'served/raw':>12}")
    whole = [median_spread(rates[WAYS[0]])[0] for rates in (raw, through)]
    for way in WAYS:
        (alone, spread), (behind, other) = median_spread(raw[way]), median_spread(through[way])
        print(
            f"{way!s:16}{alone:10.1f} {spread:>13}{alone / whole[0]:8.2f}"
            f"{behind:12.1f} {other:>13}{behind / whole[1]:8.2f}{behind / alone:12.2f}"
        )
    if len(texts) != 1:
        sys.exit("the ways gave different texts")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--raw"]:
        run_raw(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()

"""Requests of very different lengths at once: continuous batching beside static batches of the same width.

`python benchmarks/continuous_batching.py` makes a small Llama with random weights and serves it twice from
one `frame serve`: with `rolling_batch` as it is by default, and with `batch_size`, which runs each batch to
the end of its longest text. Both get the same requests at the same moment, in turn, round after round.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from urllib.parse import urlsplit

from frame.testing import run_server

FEWEST, MOST = 4, 256
SHORT = 16
"""Requests for at most so many tokens are the short ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One burst of all requests.

    Attributes:
        tokens_per_second: answered tokens by the time until the last answer.
        short_p50: seconds, the median of the short requests.
    """

    tokens_per_second: float
    short_p50: float


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """Save a Llama that never ends a text by itself, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = {character: number + 1 for number, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab={"</s>": 0, **alphabet}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.1)
        model.lm_head.weight[0] = 0  # the end token is never the likeliest
        model.lm_head.weight[len(alphabet) + 1 :] = 0
    model.save_pretrained(folder)


def make_store(root: Path, weights: Path, width: int) -> None:
    """Write the two models, which differ in how they batch."""
    shared = [f"option.model_id={weights}", "option.max_tokens=512", "minWorkers=1", "maxWorkers=1"]
    for name, lines in {
        "continuous": [f"option.max_rolling_batch_size={width}"],
        "static": [f"batch_size={width}", "max_batch_delay=50"],
    }.items():
        (root / name).mkdir(parents=True)
        (root / name / "serving.properties").write_text("\n".join([*shared, *lines]))


def lengths_of(count: int) -> list[int]:
    """Return new tokens for each request, from few to many by equal factors, in an order that stays."""
    spread = [round(FEWEST * (MOST / FEWEST) ** (index / (count - 1))) for index in range(count)]
    random.Random(0).shuffle(spread)
    return spread


def burst(url: str, model: str, lengths: list[int]) -> Round:
    """Send all requests at once and wait for all answers."""
    start = Barrier(len(lengths))

    def ask(length: int) -> tuple[int, float, float]:
        place = urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
        connection.connect()
        body = json.dumps({"inputs": f"a text of {length}", "parameters": {"max_new_tokens": length}})
        start.wait()
        begun = time.monotonic()
        connection.request("POST", f"/predictions/{model}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        ended = time.monotonic()
        connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{model}: {answer.status} {content[:200]!r}")
        return length, begun, ended

    with ThreadPoolExecutor(len(lengths)) as clients:
        found = list(clients.map(ask, lengths))
    seconds = max(ended for _, _, ended in found) - min(begun for _, begun, _ in found)
    return Round(
        tokens_per_second=sum(lengths) / seconds,
        short_p50=statistics.median(ended - begun for length, begun, ended in found if length <= SHORT),
    )


def spread_of(values: list[float]) -> str:
    """Return the median with the lowest and the highest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--width", type=int, default=8, help="texts that run at once, in both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    given = parser.parse_args()
    lengths = lengths_of(given.requests)
    rounds: dict[str, list[Round]] = {"continuous": [], "static": []}
    with tempfile.TemporaryDirectory(prefix="frame-bench-") as root:
        make_model(Path(root, "weights"), given.hidden, given.layers)
        make_store(Path(root, "store"), Path(root, "weights"), given.width)
        with run_server(Path(root, "store"), timeout=300) as server:
            for name in rounds:
                burst(server.url, name, [FEWEST] * given.width)  # warm
            for _ in range(given.rounds):
                for name, found in rounds.items():
                    found.append(burst(server.url, name, lengths))
    print(f"{given.requests} requests of {min(lengths)} to {max(lengths)} tokens, {given.width} at once")
    for name, found in rounds.items():
        rate = statistics.median(item.tokens_per_second for item in found)
        short = statistics.median(item.short_p50 for item in found)
        print(f"{name:<12} {rate:8.1f} tokens/s   short requests' p50 {short:6.2f} s")
    pairs = list(zip(rounds["continuous"], rounds["static"], strict=True))
    rates = [ours.tokens_per_second / static.tokens_per_second for ours, static in pairs]
    waits = [ours.short_p50 / static.short_p50 for ours, static in pairs]
    print(f"tokens/s, continuous / static    {spread_of(rates)}")
    print(f"short p50, continuous / static   {spread_of(waits)}")


if __name__ == "__main__":
    main()

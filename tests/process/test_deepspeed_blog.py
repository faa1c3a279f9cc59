"""The GPT-J folder of AWS's blog of 2022, as it was published but for two words, on one rank and on two."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests import hf_models

FILES = Path(__file__).parent.parent / "fixtures" / "blog_gptj"
TEXT = {"content-type": "text/plain"}
pytestmark = pytest.mark.slow(180)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack the folder with a small model in it; for two ranks also with the argument of old."""
    base = tmp_path_factory.mktemp("blog")
    weights = base / "weights"
    weights.mkdir()
    hf_models.make_gptj(weights)
    handler = (FILES / "model.py.txt").read_text()
    old = handler.replace("min_new_tokens", "min_tokens")
    for degree, name, text in ((1, "gpt-j", handler), (2, "gpt-j", handler), (2, "old", old)):
        (base / "model.py").write_text(text)
        (base / f"degree{degree}").mkdir(exist_ok=True)
        with tarfile.open(base / f"degree{degree}" / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(base / "model.py", "model.py")
            archive.add(FILES / "serving.properties", "serving.properties")
            archive.add(weights, "EleutherAI/gpt-j-6B")
    return base


@contextmanager
def serve(store: Path, degree: int) -> Iterator[Server]:
    """Serve the archives with this many shards, added up without a compiler."""
    environ = {
        "TENSOR_PARALLEL_DEGREE": str(degree),
        "OPTION_ALL_REDUCE": "gloo",
        "HF_HUB_OFFLINE": "1",
        "SERVING_MIN_WORKERS": "1",
        "SERVING_MAX_WORKERS": "1",
    }
    with run_server(store / f"degree{degree}", environ=environ, timeout=120) as server:
        yield server


def ask(server: Server, model: str, seed: int) -> httpx.Response:
    """Send a prompt with a seed."""
    headers = {**TEXT, "x-frame-seed": str(seed)}
    url = f"{server.url}/predictions/{model}"
    return httpx.post(url, content="Large models", headers=headers, timeout=60)


def test_text_is_the_same_for_a_seed_on_one_rank_and_on_two(store: Path) -> None:
    texts: dict[int, list[str]] = {}
    for degree in (1, 2):
        with serve(store, degree) as server:
            answers = [ask(server, "gpt_j", seed) for seed in (7, 7, 8)]
            assert [answer.status_code for answer in answers] == [200, 200, 200], answers[0].text
            texts[degree] = [answer.json()[0]["generated_text"] for answer in answers]
            if degree == 2:
                for _ in range(2):  # the group lives on
                    old = ask(server, "old", 7)
                    assert old.status_code == 424
                    assert "min_tokens" in old.text
    assert texts[1] == texts[2]
    first, again, other = texts[1]
    assert first == again != other
    assert first.startswith("Large models")


def test_fixture_differs_from_the_blog_in_two_words() -> None:
    text = (FILES / "model.py.txt").read_text()
    assert text.count("min_new_tokens=200") == 1
    assert text.count("replace_with_kernel_inject=False") == 1

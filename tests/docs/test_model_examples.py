"""The handlers of docs/writing-a-model.md answer as the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from frame.api import (
    EngineContext,
    ModelSpec,
    Part,
    Properties,
    Request,
    RequestError,
    Response,
    ResponseStream,
)
from frame_python.engine import PythonEngine
from frame_python.options import PythonOptions

from tests.docs.pages import code_blocks, page

HANDLERS = {
    match[1]: block
    for block in code_blocks(page("writing-a-model"), "python")
    if (match := re.match(r"# model_store/(\w+)/model\.py\n", block))
}
Results = Sequence[Response | ResponseStream | RequestError]
Ask = Callable[..., Results]


@pytest.fixture
def ask(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Load the handler named by the parameter; give a function from bodies to results."""
    name: str = request.param
    (tmp_path / "model.py").write_text(HANDLERS[name])
    monkeypatch.chdir(tmp_path)
    engine = PythonEngine(EngineContext(devices=("cpu",)))
    spec = ModelSpec(
        name=name,
        version=None,
        path=str(tmp_path),
        model_file="model.py",
        options=PythonOptions(),
        properties={"factor": "2.5"},
        batch_size=8,
    )
    model = engine.load(spec)
    model.warm_up()

    def call(*bodies: bytes) -> Results:
        return model.predict(
            [
                Request(id=f"r{index}", properties=Properties(), parts=(Part("data", body),))
                for index, body in enumerate(bodies)
            ]
        )

    yield call
    model.close()
    engine.close()


def body_of(answer: object) -> bytes:
    """Return the body that a client gets."""
    assert isinstance(answer, Response)
    named = [part for part in answer.parts if part.key == "data"] or list(answer.parts)
    return bytes(named[0].data)


def test_every_example_is_run_here() -> None:
    assert set(HANDLERS) == {"shout", "scale", "lengths", "checked", "count"}


@pytest.mark.parametrize("ask", ["shout"], indirect=True)
def test_shout(ask: Ask) -> None:
    assert [body_of(answer) for answer in ask(b"hello")] == [b"HELLO"]


@pytest.mark.parametrize("ask", ["scale"], indirect=True)
def test_scale_uses_its_option(ask: Ask) -> None:
    (answer,) = ask(b'{"numbers": [1, 2]}')
    assert json.loads(body_of(answer)) == {"numbers": [2.5, 5.0]}


@pytest.mark.parametrize("ask", ["lengths"], indirect=True)
def test_lengths_answers_a_batch_and_a_single_request(ask: Ask) -> None:
    assert [json.loads(body_of(answer)) for answer in ask(b"abc", b"")] == [{"length": 3}, {"length": 0}]
    assert [json.loads(body_of(answer)) for answer in ask(b"abcd")] == [{"length": 4}]


@pytest.mark.parametrize("ask", ["checked"], indirect=True)
def test_checked_fails_one_request_alone(ask: Ask) -> None:
    good, bad = ask(b"abc", b"")
    assert body_of(good) == b"cba"
    assert isinstance(bad, Response | RequestError)
    assert bad.status == 400


@pytest.mark.parametrize("ask", ["count"], indirect=True)
def test_count_streams_lines(ask: Ask) -> None:
    (answer,) = ask(b'{"last": 2}')
    assert isinstance(answer, ResponseStream)
    assert answer.head.properties["Content-Type"] == "application/jsonlines"
    lines = b"".join(bytes(chunk) for chunk in answer.chunks).splitlines()
    answer.close()
    assert [json.loads(line) for line in lines] == [{"outputs": {"number": 0}}, {"outputs": {"number": 1}}]

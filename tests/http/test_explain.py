"""GET /models/{model}/explain and `frame explain`: the same account as JSON and in words."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from frame.cli.main import main
from frame.http.control import create_app
from frame.http.host import ExplainedModel
from frame.http.routes import default_table
from frame.policy.records import DeathRecord
from prometheus_client import CollectorRegistry

from tests.http.fake_host import FakeHost
from tests.unit.explain_views import NOW, batch, view


def explained(name: str = "m", version: str | None = None) -> ExplainedModel:
    """Return a model with batches that left requests behind, and with a death."""
    made = view(*[batch(left=15)] * 60)
    made.journal.deaths.append(DeathRecord(at=NOW - 2.0, kind="died", cause="killed by SIGKILL", jobs=1))
    return ExplainedModel(name=name, version=version, view=made)


def get(path: str, accept: str | None = None, *models: ExplainedModel) -> tuple[int, str, str]:
    """Ask the control plane; return status, content type and body."""
    host = FakeHost(explained=models or (explained(), explained("m", "2")))
    client = create_app(host, CollectorRegistry(), default_table()).test_client()

    async def ask() -> tuple[int, str, str]:
        answer = await client.get(path, headers={} if accept is None else {"accept": accept})
        return answer.status_code, answer.content_type or "", await answer.get_data(as_text=True)

    return asyncio.run(ask())


def test_the_account_has_sentences_advice_and_the_records_behind_them() -> None:
    status, kind, text = get("/models/m/explain")
    body = json.loads(text)
    assert (status, kind) == (200, "application/json")
    assert list(body) == ["model", "sentences", "advice", "batches", "scalings", "choices", "deaths"]
    assert body["sentences"][0]["about"] == "batches"
    assert body["sentences"][0]["figures"]["mean_left"] == 15
    assert body["advice"][0]["change"] == {"batch_size": "8"}
    assert len(body["batches"]) == 50
    assert body["batches"][0]["seconds_ago"] == 5
    assert body["deaths"] == [{"seconds_ago": 2, "kind": "died", "cause": "killed by SIGKILL", "jobs": 1}]


def test_one_version_is_explained_by_its_path() -> None:
    assert json.loads(get("/models/m/2/explain")[2])["version"] == "2"
    assert json.loads(get("/models/m/2/explain", None, explained("m", "2"))[2])["version"] == "2"


@pytest.mark.parametrize(
    ("query", "accept", "is_text"),
    [
        ("", "text/plain", True),
        ("", "*/*", False),
        ("", "application/json, text/plain;q=0.5", False),
        ("?format=text", "application/json", True),
        ("?format=json", "text/plain", False),
    ],
)
def test_plain_words_come_when_they_are_asked_for(query: str, accept: str, is_text: bool) -> None:
    _, kind, text = get(f"/models/m/explain{query}", accept)
    assert kind.startswith("text/plain" if is_text else "application/json")
    assert text.startswith("Model m\n\nBatches\n  50 of the last 50 batches left") == is_text


def test_the_words_end_with_the_advice_or_that_there_is_none() -> None:
    lines = get("/models/m/explain?format=text")[2].splitlines()
    start = lines.index("Advice")
    assert lines[start + 1] == "  batch_size=8"
    assert lines[start + 2].startswith("    batch_size=8 would raise the throughput")
    assert get("/models/m/2/explain?format=text")[2].startswith("Model m, version 2\n")
    quiet = ExplainedModel(name="m", version=None, view=view())
    text = get("/models/m/explain?format=text", None, quiet)[2]
    assert text.endswith("\n\nAdvice\n  Nothing that was recorded speaks for other settings.\n")


@pytest.mark.parametrize(
    ("path", "status"), [("/models/no/explain", 404), ("/models/m/explain?format=xml", 400)]
)
def test_an_unknown_model_or_format_is_an_error(path: str, status: int) -> None:
    assert json.loads(get(path)[2])["code"] == status


# --- frame explain --------------------------------------------------------------------------------


class _Server(BaseHTTPRequestHandler):
    """Answers by the path alone."""

    def do_GET(self) -> None:
        status, body = {
            "/models/m/explain?format=text": (200, b"Model m\n"),
            "/models/a%2Fb/1/explain?format=json": (200, b"{}\n"),
            "/models/no/explain?format=text": (404, b'{"message": "Model not found: no"}'),
            "/models/odd/explain?format=text": (502, b"bad gateway"),
        }[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_command_prints_what_the_server_says(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "m", "--url", url]) == 0
    assert main(["explain", "a/b", "--version", "1", "--json", "--url", f"{url}/"]) == 0
    assert capsys.readouterr().out == "Model m\n{}\n"


@pytest.mark.parametrize(("model", "said"), [("no", "404: Model not found: no"), ("odd", "502: bad gateway")])
def test_the_command_says_why_a_server_refuses(
    url: str, model: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", model, "--url", url]) == 1
    assert capsys.readouterr().err == f"frame: {url} answered {said}\n"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1", "no server answers at http://127.0.0.1:1: [Errno 111] Connection refused"),
        ("file:///etc", "--url: 'file:///etc' is not an address such as http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "--url: '127.0.0.1:8080' is not an address"),
        ("http://[", "--url: 'http://[' is not an address"),
    ],
)
def test_the_command_says_when_no_server_answers(
    address: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "m", "--url", address]) == 1
    assert said in capsys.readouterr().err

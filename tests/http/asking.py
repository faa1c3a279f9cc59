"""Ask the control plane of a made-up server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from frame.http.control import create_app
from frame.http.routes import default_table
from prometheus_client import CollectorRegistry
from quart.testing.utils import sentinel  # stands for: no JSON body

from tests.http.fake_host import FakeHost
from tests.http.serving import run


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Answer]


def asking(host: FakeHost, registry: CollectorRegistry | None = None, **settings: Any) -> Ask:
    """Return a function that asks an app of `host`."""
    app = create_app(host, registry or CollectorRegistry(), default_table(), **settings)

    def ask(path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        answers: list[Answer] = []

        async def scenario() -> None:
            client = app.test_client()
            response = await client.open(path, method=method, headers=headers or {}, json=sentinel)
            body = await response.get_data(as_text=False)
            answers.append(Answer(response.status_code, response.headers, body))

        run(scenario())
        return answers[0]

    return ask

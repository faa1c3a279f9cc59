"""The control plane behind both servers, on real sockets."""

from __future__ import annotations

import httpx
import pytest
from frame.http.control import create_app
from frame.http.routes import default_table
from frame.http.servers import ServerName
from prometheus_client import CollectorRegistry

from tests.http.fake_host import FakeHost, model
from tests.http.serving import SERVERS, run, served

both = pytest.mark.parametrize("server", SERVERS)


@both
def test_control_plane_is_served(server: ServerName) -> None:
    async def scenario() -> None:
        app = create_app(FakeHost((model("m"),)), CollectorRegistry(), default_table())
        async with served(app, server=server) as running, httpx.AsyncClient(base_url=running.url) as client:
            ping = await client.get("/ping", headers={"x-request-id": "abc"})
            missing = await client.get("/models/other")
            head = await client.head("/ping")
        assert (ping.status_code, ping.json()) == (200, {"m": {"status": "Healthy"}})
        assert ping.headers["x-request-id"] == "abc"
        assert missing.status_code == 404
        assert (head.status_code, head.content) == (200, b"")

    run(scenario())

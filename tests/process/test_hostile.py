"""Archives and urls that are meant to harm are refused with 4xx, do nothing, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from frame.api import SourceContext, SourceError
from frame.sources.http import HttpModel
from frame.store import download as downloads
from frame.store.download import download
from frame.testing import Server, run_server

from tests.process.file_site import file_site
from tests.process.hostile_archives import OUTSIDE, Build, archives, strange_archives
from tests.process.probes import DEADLINE, JSON, put_model

pytestmark = pytest.mark.slow(60)
ARCHIVES = list(archives())
PUBLIC = "8.8.8.8"  # an address that may be asked; no test does


class Place:
    """A server with a model, a folder of archives, a folder where nothing may appear, and a cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store, self.archives, self.cache = root / "store", root / "archives", root / "cache"
        self.archives.mkdir()
        put_model(self.store / "good", engine="echo", maxWorkers=1)
        self.environ = {"SERVING_CACHE_DIR": str(self.cache), "SERVING_MODEL_DOWNLOAD_TIMEOUT": "10"}

    def files(self) -> set[Path]:
        """Return all that is there outside of the cache, and what is in it by folders."""
        outside = {path for path in self.root.rglob("*") if not path.is_relative_to(self.cache)}
        return outside | set(self.cache.glob("*/*")) | set(Path(OUTSIDE).parent.glob("frame-hostile*"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Server]:
    with run_server(place.store, environ=place.environ) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """Return the server without what an earlier test may have got registered."""
    httpx.delete(f"{running.url}/models/m", timeout=DEADLINE)
    return running


def register(server: Server, url: str, **more: str) -> httpx.Response:
    """Ask for a model; its parameters are JSON, in which anything can be written."""
    body = json.dumps({"url": url, **more})  # with escapes for what is no text
    return httpx.post(f"{server.url}/models", content=body, headers=JSON, timeout=2 * DEADLINE)


def refused(server: Server, answer: httpx.Response, given: str) -> str:
    """Check that a request was refused without harm; return the message."""
    assert 400 <= answer.status_code < 500, answer.text
    message = answer.json()["message"]
    rest = message.replace(given, "").replace(repr(given)[1:-1], "")
    for internal in ("Traceback", ".py", "/root", "/work", "/tmp", "/home", "site-packages", "see the log"):
        assert internal not in rest
    assert httpx.get(f"{server.url}/models", timeout=DEADLINE).json()["models"] == [
        {"modelName": "good", "modelUrl": answer_url(server), "status": "READY"}
    ]
    good = httpx.post(f"{server.url}/predictions/good", json={"a": 1}, timeout=DEADLINE)
    assert (good.status_code, good.json()) == (200, {"a": 1})
    return message


def answer_url(server: Server) -> str:
    return str(httpx.get(f"{server.url}/models/good", timeout=DEADLINE).json()[0]["models"][0]["modelUrl"])


@pytest.mark.parametrize(
    ("suffix", "build", "said"),
    [pytest.param(suffix, build, said, id=name) for name, suffix, build, said in ARCHIVES],
)
def test_hostile_archives_are_refused(
    server: Server, place: Place, suffix: str, build: Build, said: str
) -> None:
    archive = place.archives / f"m{suffix}"
    archive.write_bytes(build())
    before = place.files()
    message = refused(server, register(server, str(archive)), str(archive))
    assert place.files() == before
    assert httpx.codes.is_client_error(register(server, f"file://{archive}").status_code)
    assert re.search(said, message), message


@pytest.mark.parametrize(
    ("suffix", "data"), [pytest.param(suffix, data, id=name) for name, suffix, data in strange_archives()]
)
def test_strange_archives_are_served_without_rights_of_their_own(
    server: Server, place: Place, suffix: str, data: bytes
) -> None:
    archive = place.archives / f"m{suffix}"
    archive.write_bytes(data)
    answer = register(server, str(archive))
    assert answer.status_code == 200, answer.text
    got = httpx.post(f"{server.url}/predictions/m", json={"b": 2}, timeout=DEADLINE)
    assert (got.status_code, got.json()) == (200, {"b": 2})
    assert httpx.get(f"{server.url}/models/m", timeout=DEADLINE).status_code == 200
    for path in place.cache.rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        assert not mode & 0o022 or path.is_symlink(), f"{path} can be written by others"


class Listening:
    """Sockets on loopback addresses that note who connects, and answer nothing."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self.connections: list[str] = []
        self._sockets = []
        self.port = 0
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, self.port), family=family)
            self.port = listening.getsockname()[1]
            self._sockets.append(listening)
        self._ended, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listening in (*self._sockets, self._ended):
                selector.register(listening, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._ended:
                        return
                    taken, peer = key.fileobj.accept()  # type: ignore[union-attr]
                    taken.close()
                    self.connections.append(str(peer))

    def close(self) -> None:
        """Stop; whoever connected until now has been noted."""
        self._end.close()
        self._thread.join()
        for open_one in (*self._sockets, self._ended):
            open_one.close()


@contextlib.contextmanager
def listening() -> Iterator[Listening]:
    hosts = ("127.0.0.1", "::1") if _has_ipv6() else ("127.0.0.1",)
    opened = Listening(hosts)
    try:
        yield opened
    finally:
        opened.close()


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


PRIVATE_HOSTS = (
    "127.0.0.1", "127.1", "127.255.255.254", "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "0",
    "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "%31%32%37.0.0.1",
    "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1", "127\u30020.0.1",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]",
)  # fmt: skip
"""This machine, in the spellings that resolvers and url parsers take for it."""
OTHER_HOSTS = (
    "169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[fd00:ec2::254]", "2852039166", "10.0.0.1",
    "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.0.192", "224.0.0.1", "255.255.255.255",
)  # fmt: skip
"""Addresses of other machines that nobody outside may have fetched."""


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_urls_of_this_machine_are_refused_before_a_byte_is_sent(server: Server, host: str) -> None:
    with listening() as site:
        url = f"http://{host}:{site.port}/m.zip"
        refused(server, register(server, url), url)
    assert site.connections == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_urls_of_private_addresses_are_refused(server: Server, scheme: str, host: str) -> None:
    url = f"{scheme}://{host}/m.zip"
    assert "loopback, link-local or private" in refused(server, register(server, url), url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:password@127.0.0.1:PORT/m.zip", "http://user@127.0.0.1:PORT/m.zip",
        "http://models.example@127.0.0.1:PORT/m.zip", "http://127.0.0.1:PORT\\@models.example/m.zip",
        "http://127.0.0.1:PORT#@models.example/m.zip", "http:127.0.0.1:PORT/m.zip",
        "http:/127.0.0.1:PORT/m.zip",
        "http:///127.0.0.1:PORT/m.zip", "HTTP://127.0.0.1:PORT/m.zip", "//127.0.0.1:PORT/m.zip",
        "m=http://127.0.0.1:PORT/m.zip", "m:1:echo=http://127.0.0.1:PORT/m.zip",
        "gopher://127.0.0.1:PORT/m.zip", "ftp://127.0.0.1:PORT/m.zip", "data:text/plain,engine=echo",
        "data://text/plain,engine=echo", "javascript:alert(1)", "javascript://127.0.0.1:PORT/%0aalert(1)",
        "dict://127.0.0.1:PORT/m", "ldap://127.0.0.1:PORT/m", "jar:http://127.0.0.1:PORT/m.zip!/m",
        "unix:///tmp/m.sock", "http+unix://%2Ftmp%2Fm.sock/m.zip", "netdoc:///etc/passwd",
        "http://127.0.0.1:PORT/m.zip\r\nHost: models.example", "http://127.0.0.1:PORT/m.zip\n", "\0http://h/m.zip",
        "http://127.0.0.1:PORT/\0m.zip", "http://127.0.0.1:99999/m.zip", "http://127.0.0.1:-1/m.zip",
        "http://[::1/m.zip", "http://", "https://:443/m.zip", "http://h/" + "a" * 100_000, "a" * 100_000,
        "/" + "a/" * 50_000, "file:///etc/passwd", "file:///dev/zero", "/dev/zero", "/dev/stdin",
        "/proc/self/mem",
        "file:///proc/self/environ", "file://127.0.0.1/etc/passwd", "/etc", "..",
        "../../../etc/passwd", "~root", "/",
        "", " ", "=", "m=", "?x=y", "s3://", "hf://", "hf://../..", "\ud800",
    ],
)  # fmt: skip
def test_urls_that_are_none_are_refused(server: Server, url: str) -> None:
    with listening() as site:
        given = url.replace("PORT", str(site.port))
        message = refused(server, register(server, given), given)
        assert "password" not in message.replace(given, "") or "has a user and a password" in message
    assert site.connections == []


def test_with_a_pattern_nothing_else_is_registered(place: Place) -> None:
    allowed, outside = place.root / "allowed", place.root / "outside"
    for folder in (allowed, outside):
        put_model(folder / "m", engine="echo", maxWorkers=1)
    environ = {**place.environ, "SERVING_MODEL_URL_PATTERN": f"(m=)?(file://)?{re.escape(str(allowed))}/.*"}
    with run_server(place.store, environ=environ) as server:
        for url in (
            f"file://{outside}/m", f"{outside}/m", f"file://{allowed}/../outside/m",
            f"{allowed}/../outside/m",
            f"file://{allowed}/%2e%2e/outside/m", f"{allowed}/m/../../outside/m", f"m=file://{allowed}/../outside/m",
            f"file://localhost{outside}/m", f"FILE://{outside}/m", f"{outside}/m?x={allowed}/m", "m", "/etc",
            "http://models.example/m.zip", f"http://models.example/{allowed}/m.zip",
        ):  # fmt: skip
            assert "model_url_pattern" in refused(server, register(server, url), url)
        for weights in (f"{outside}/m", "http://models.example/m.zip", "s3://bucket/m"):
            answer = register(server, f"{allowed}/m", **{"option.model_id": weights})
            assert "model_url_pattern" in refused(server, answer, f"{allowed}/m")
            url = f"{allowed}/m?option.model_id={weights}"
            assert "model_url_pattern" in refused(server, register(server, url), url)
        assert register(server, f"file://{allowed}/m").status_code == 200


def test_redirects_to_this_machine_are_refused_before_a_byte_is_sent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer comes from a name that the test makes public; the second hop is looked at anew."""
    resolve, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host: str, *args: Any, **named: Any) -> Any:
        return resolve(PUBLIC if host == "models.example" else host, *args, **named)

    def create_connection(address: tuple[str, int], *args: Any, **named: Any) -> Any:
        return connect(("127.0.0.1" if address[0] == PUBLIC else address[0], address[1]), *args, **named)

    monkeypatch.setattr(downloads, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    with file_site(files={"/m.bin": b"weights"}) as site, listening() as secret:
        port = site.url.rpartition(":")[2]
        hosts = [*PRIVATE_HOSTS[:14], *PRIVATE_HOSTS[18:]]
        site.redirects = {f"/{number}": f"http://{host}:{secret.port}/m" for number, host in enumerate(hosts)}
        site.redirects |= {"/file": "file:///etc/passwd", "/gopher": f"gopher://127.0.0.1:{secret.port}/"}
        context = SourceContext(environ={}, allows_private=False, timeout=5.0)
        for path in ("/m.bin", *site.redirects):
            url = f"http://models.example:{port}{path}"
            with contextlib.closing(HttpModel(url, context)) as remote:
                if path == "/m.bin":
                    assert download(remote, url, place.root / "hops", lambda done, total: None, "")
                else:
                    with pytest.raises((SourceError, OSError)):
                        download(remote, url, place.root / "hops", lambda done, total: None, "")
        assert {asked for asked, _, _ in site.asked} == {"/m.bin", *site.redirects}
    assert secret.connections == []

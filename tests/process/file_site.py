"""A web server of files that cuts connections, changes files and forgets ranges as a test tells it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileSite:
    """Files by path, and what is wrong with them.

    Attributes:
        cuts: after how many bytes the next answers end too early, one by one.
        on_cut: called at each cut, before the connection ends.
        knows_ranges, knows_versions: whether it understands `Range`, and sends an ETag.
        redirects: where a path is found instead.
        asked: path and `Range` of each request, with its headers.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    on_cut: Callable[[], None] | None = None
    knows_ranges: bool = True
    knows_versions: bool = True
    stalls: bool = False
    statuses: dict[str, list[int]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def fetched(self) -> list[str]:
        """Return the ranges of requests for more than a first byte."""
        return [asked for _, asked, _ in self.asked if asked != "bytes=0-0"]


@contextmanager
def file_site(**facts: Any) -> Iterator[FileSite]:
    """Serve files on a loopback port."""
    site = FileSite(**facts)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(site, self)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        site.done.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(site: FileSite, asked: BaseHTTPRequestHandler) -> None:
    """Send a file, or part of it, or less than that."""
    path = asked.path
    wanted = asked.headers.get("range", "")
    site.asked.append((path, wanted, dict(asked.headers)))
    if path in site.redirects:
        _head(asked, 302, {"Location": site.redirects[path], "Content-Length": "0"})
        return
    status = site.statuses[path].pop(0) if site.statuses.get(path) else 200
    body = site.files.get(path)
    if body is None or status != 200:
        _head(asked, 404 if body is None else status, {"Content-Length": "0"})
        return
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'} if site.knows_versions else {}
    first, last = 0, len(body) - 1
    if wanted and site.knows_ranges:
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last = int(start), min(int(end or last), last)
        if first >= len(body):
            _head(asked, 416, {**headers, "Content-Length": "0", "Content-Range": f"bytes */{len(body)}"})
            return
        status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(body)}"
    part = body[first : last + 1]
    _head(asked, status, {**headers, "Content-Length": str(len(part))})
    if wanted != "bytes=0-0" and site.stalls:
        asked.wfile.write(part[:1000])
        site.done.wait(60)
    if wanted != "bytes=0-0" and site.cuts:
        asked.wfile.write(part[: site.cuts.pop(0)])
        asked.wfile.flush()
        if site.on_cut is not None:
            site.on_cut()
        asked.close_connection = True
        asked.connection.shutdown(2)
        return
    asked.wfile.write(part)


def _head(asked: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    asked.send_response(status)
    for name, value in headers.items():
        asked.send_header(name, value)
    asked.end_headers()

"""`http:` and `https:`: an archive, or a single file."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import unquote, urljoin, urlsplit

import httpcore

from frame.contract.sources import RemoteFile, RemoteModel, SourceChangedError, SourceContext, SourceError
from frame.sources.connections import open_pool

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")
_BEGIN = re.compile(r"bytes (\d+)-")
_NO_SUCH = {400, 401, 403, 404, 405, 410, 451}
_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
)


class HttpFiles:
    """Reads files over HTTP(S), from any byte on, through redirects."""

    def __init__(self, context: SourceContext, headers: Mapping[str, str] | None = None) -> None:
        """Send these headers too, but to no other host than the one that was asked."""
        self._headers = dict(headers or {})
        limit = context.timeout
        self._timeout = {"connect": limit, "read": limit, "write": limit, "pool": limit}
        self._pool = open_pool(allows_private=context.allows_private)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def look(self, url: str) -> tuple[int | None, str]:
        """Return size and version (the empty text when the server does not tell) of a file.

        Raises:
            SourceError, OSError: as `RemoteModel.files`.
        """
        with self._get(url, {"range": "bytes=0-0"}) as response:
            headers = _headers(response)
            if response.status == 206:  # noqa: PLR2004  # Partial Content
                found = _RANGE.fullmatch(headers.get("content-range", ""))
                return (int(found[1]) if found else None), _version(headers)
            if response.status == 416:  # noqa: PLR2004  # there is no first byte
                return 0, _version(headers)
            length = headers.get("content-length", "")
            return (int(length) if length.isdecimal() else None), _version(headers)

    def read(self, url: str, offset: int, version: str) -> Iterator[bytes]:
        """Yield a file's bytes from `offset` on.

        Args:
            version: as `look` gave it; empty: it is not checked.

        Raises:
            SourceChangedError: it is another one now.
            SourceError, OSError: as `RemoteModel.read`.
        """
        with self._get(url, {"range": f"bytes={offset}-"} if offset else {}) as response:
            if response.status == 416:  # noqa: PLR2004  # it is shorter now
                raise SourceChangedError(url)
            if version and _version(_headers(response)) != version:
                raise SourceChangedError(url)
            begins = _BEGIN.match(_headers(response).get("content-range", ""))
            if response.status == 206 and (begins is None or int(begins[1]) != offset):  # noqa: PLR2004
                raise OSError(f"{_shown(url)}: another range came than was asked for")
            skip = offset if response.status == 200 else 0  # noqa: PLR2004  # ranges are not known there
            for chunk in _chunks(response):
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[httpcore.Response]:
        """Follow redirects to an answer that has a body."""
        asked = urlsplit(url)
        was_secure = False
        for _ in range(_MOST_REDIRECTS + 1):
            target = urlsplit(url)
            if target.scheme not in {"http", "https"} or (was_secure and target.scheme == "http"):
                raise SourceError(f"{_shown(url)}: redirected to what is not https")
            was_secure = target.scheme == "https"
            own = self._headers if target.netloc == asked.netloc else {}
            with _failures_as_os_errors(), self._send(url, {**own, **headers}) as response:
                if response.status not in _REDIRECTS:
                    _check(response, url)
                    yield response
                    return
                url = urljoin(url, _headers(response).get("location", ""))
        raise SourceError(f"{_shown(url)}: more than {_MOST_REDIRECTS} redirects")

    @contextmanager
    def _send(self, url: str, headers: Mapping[str, str]) -> Iterator[httpcore.Response]:
        given = {"host": urlsplit(url).netloc.rpartition("@")[2], "accept-encoding": "identity", **headers}
        with self._pool.stream(
            "GET", url.partition("#")[0], headers=list(given.items()), extensions={"timeout": self._timeout}
        ) as response:
            yield response


class HttpModel(RemoteModel):
    """One file at a url, named by the url's last segment."""

    def __init__(self, url: str, context: SourceContext) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise SourceError(f"{_shown(url)}: no user and password in a url; they would be logged")
        self._url = url
        self._name = unquote(parts.path.rsplit("/", 1)[-1]) or "model"
        self._files = HttpFiles(context)

    def files(self) -> Sequence[RemoteFile]:
        """Ask for the first byte."""
        size, version = self._files.look(self._url)
        unknown = (
            version or f"unknown-{time.time_ns()}"
        )  # nothing tells whether it changed: fetched each time
        return [RemoteFile(path=self._name, size_bytes=size, version=unknown)]

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Read the file; one whose server names no version may not go on in the middle."""
        is_known = not file.version.startswith("unknown-")
        if offset and not is_known:
            raise SourceChangedError(f"{_shown(self._url)}: nothing tells whether it changed")
        return self._files.read(self._url, offset, file.version if is_known else "")

    def close(self) -> None:
        """Close the connections."""
        self._files.close()


@contextmanager
def _failures_as_os_errors() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    except httpcore.UnsupportedProtocol as error:
        raise SourceError(str(error)) from error


def _chunks(response: httpcore.Response) -> Iterator[bytes]:
    with _failures_as_os_errors():
        yield from response.iter_stream()


def _check(response: httpcore.Response, url: str) -> None:
    if response.status in {200, 206, 416}:
        return
    message = f"{_shown(url)}: answered {response.status}"
    raise SourceError(message) if response.status in _NO_SUCH else OSError(message)


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _version(headers: Mapping[str, str]) -> str:
    """Return a strong ETag, else the time of the last change; a weak ETag allows other bytes."""
    tag = headers.get("etag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("last-modified", "")


def _shown(url: str) -> str:
    """Return a url without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"

"""`frame explain`: ask a running server why a model behaves as it does."""

from __future__ import annotations

import json
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from frame.errors import BadRequestError, FrameError

_TIMEOUT = 10.0
_MAX_BYTES = 16 << 20


class NoServerError(FrameError):
    """No server answers, or not as one should: whoever typed the address can fix it."""


def explain_model(url: str, model: str, version: str | None, *, as_json: bool) -> str:
    """Return what a server says about a model.

    Args:
        url: of the server, `http://127.0.0.1:8080`.
        version: None for the newest.
        as_json: return JSON in place of words.

    Raises:
        BadRequestError: the address is none.
        NoServerError: no server answers there, or it refuses; the message has its reason.
    """
    if not _is_address(url):
        raise BadRequestError(f"--url: {url!r} is not an address such as http://127.0.0.1:8080")
    names = [model] if version is None else [model, version]
    path = "/".join(quote(name, safe="") for name in names)
    query = "json" if as_json else "text"
    request = Request(f"{url.rstrip('/')}/models/{path}/explain?format={query}")  # noqa: S310  # http(s), see above
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            text: bytes = answer.read(_MAX_BYTES)
    except HTTPError as error:
        raise NoServerError(f"{url} answered {error.code}: {_message(error)}") from error
    except (URLError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise NoServerError(
            f"no server answers at {url}: {reason}; start one with `frame serve`, or name its management "
            "address with --url"
        ) from error
    return text.decode("utf-8", "replace").rstrip("\n")


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return False


def _message(error: HTTPError) -> str:
    """Return the message of an error's JSON, or what there is of it."""
    body = error.read(_MAX_BYTES).decode("utf-8", "replace")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200] or error.reason

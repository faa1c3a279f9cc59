"""Routes that change something: with a token for everybody who has it, else for this machine alone."""

from __future__ import annotations

import pytest
from frame.http.guard import Guard

TOKEN = "0123456789abcdef"


def scope(**headers: str) -> dict[str, object]:
    """Return a request's scope; `_` in a header's name stands for `-`."""
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "127.8.0.1", "[::1]:8080", ""])
def test_clients_of_this_machine_need_no_token_where_none_is_set(host):
    assert Guard().refusal(scope(host=host)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8080"},  # a name that was made to resolve to this machine
        {"host": "127.0.0.1.evil.example"},
        {"host": "10.0.0.1:8080"},
        {"host": "localhost:8080", "origin": "https://evil.example"},
        {"host": "localhost:8080", "origin": "null"},
        {"host": "localhost:8080", "sec_fetch_site": "cross-site"},
    ],
)
def test_web_pages_are_refused_where_no_token_is_set(headers):
    refused = Guard().refusal(scope(**headers))
    assert refused is not None
    assert (refused.status, refused.type_name) == (403, "ForbiddenError")


WRONG = ["", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ", "Bearer é"]


@pytest.mark.parametrize("given", [None, *WRONG])
def test_a_missing_or_wrong_token_is_refused_from_anywhere(given):
    headers = {"host": "localhost"} | ({} if given is None else {"authorization": given})
    refused = Guard(TOKEN).refusal(scope(**headers))
    assert refused is not None
    assert refused.status == 401
    assert dict(refused.headers)[b"www-authenticate"].startswith(b"Bearer")
    assert TOKEN not in refused.message


def test_the_token_is_enough():
    given = scope(host="models.example", origin="https://ops.example", authorization=f"Bearer {TOKEN}")
    assert Guard(TOKEN).refusal(given) is None

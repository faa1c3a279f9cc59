"""Routes that change something: with a token for everybody who has it, else for this machine alone."""

from __future__ import annotations

import pytest
from frame.http.guard import Guard
from frame.http.routes import Endpoint, default_table

TOKEN = "0123456789abcdef"
OTHER = "another-token-9876"
ROUTES = {endpoint.name: endpoint for endpoint in default_table().endpoints}
CONTROL = ROUTES["register_model"]


def scope(**headers: str) -> dict[str, object]:
    """Return a request's scope; `_` in a header's name stands for `-`."""
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "127.8.0.1", "[::1]:8080", ""])
def test_clients_of_this_machine_need_no_token_where_none_is_set(host):
    assert Guard().refusal(scope(host=host), CONTROL) is None


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
    refused = Guard().refusal(scope(**headers), CONTROL)
    assert refused is not None
    assert (refused.status, refused.type_name) == (403, "ForbiddenError")


WRONG = ["", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ", "Bearer é"]


@pytest.mark.parametrize("given", [None, *WRONG])
def test_a_missing_or_wrong_token_is_refused_from_anywhere(given):
    headers = {"host": "localhost"} | ({} if given is None else {"authorization": given})
    refused = Guard(TOKEN).refusal(scope(**headers), CONTROL)
    assert refused is not None
    assert refused.status == 401
    assert dict(refused.headers)[b"www-authenticate"].startswith(b"Bearer")
    assert TOKEN not in refused.message


def test_the_token_is_enough():
    given = scope(host="models.example", origin="https://ops.example", authorization=f"Bearer {TOKEN}")
    assert Guard(TOKEN).refusal(given, CONTROL) is None


def opens(guard: Guard, route: Endpoint | None, token: str | None) -> bool:
    """Tell whether a token opens a route."""
    given = scope(host="localhost") if token is None else scope(authorization=f"Bearer {token}")
    return guard.refusal(given, route) is None


@pytest.mark.parametrize("route", [route for route in ROUTES.values() if route.route_class == "inference"])
def test_models_need_their_token_or_that_of_management_where_one_is_set(route):
    assert all(opens(Guard(TOKEN), route, token) for token in (None, "wrong"))
    guard = Guard(TOKEN, inference=OTHER)
    assert opens(guard, route, TOKEN)
    assert opens(guard, route, OTHER)
    is_ping = route.name == "ping"
    assert [opens(guard, route, token) for token in (None, "", OTHER[:-1])] == [is_ping] * 3


def test_what_is_nowhere_is_told_to_those_who_may_use_models():
    guard = Guard(inference=OTHER)
    assert not opens(guard, None, None)
    assert opens(guard, None, OTHER)
    assert opens(Guard(TOKEN), None, None)


@pytest.mark.parametrize("route", [route for route in ROUTES.values() if route.route_class == "observe"])
def test_what_can_be_read_needs_the_token_of_management_where_the_listener_says_so(route):
    guard = Guard(TOKEN, inference=OTHER, observes_with_token=True)
    assert [opens(guard, route, token) for token in (None, OTHER, TOKEN)] == [False, False, True]
    guard = Guard(TOKEN, inference=OTHER)
    assert all(opens(guard, route, token) for token in (None, OTHER, TOKEN))


@pytest.mark.parametrize("route", [route for route in ROUTES.values() if route.route_class == "control"])
def test_the_token_of_inference_changes_nothing(route):
    assert not opens(Guard(TOKEN, inference=OTHER), route, OTHER)
    assert opens(Guard(TOKEN, inference=OTHER), route, TOKEN)

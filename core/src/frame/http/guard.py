"""Who may use which route: the one place that decides, in front of all of them."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from frame.http.routes import Endpoint
from frame.http.servers import Scope

_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain"})
_OWN_SITE = frozenset({b"none", b"same-origin"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that may not do what it asks for."""

    status: int
    type_name: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """Decides on every request, by the class of its route.

    - *control*: with the management token. Where none is set these routes are on loopback listeners alone,
      and what a browser sends on behalf of another page is refused: any page could have this machine load
      a model.
    - *observe*: with that token too, where the listener says so.
    - *inference*: with the token of inference, or that of management, where one is set; but for `/ping`,
      which load balancers ask, and OPTIONS, which browsers ask before they send a token.
    """

    def __init__(
        self,
        management: str | None = None,
        *,
        inference: str | None = None,
        observes_with_token: bool = False,
        open_routes: frozenset[str] = frozenset(),
    ) -> None:
        """Ask for these tokens; None: for none.

        Args:
            open_routes: names of routes that need none.
        """
        self._open = open_routes
        self._management = _expected(management)
        self._inference = (*_expected(inference), *self._management) if inference is not None else ()
        self._observe = self._management if observes_with_token else ()

    @property
    def guards_inference(self) -> bool:
        """Whether requests to models need a token."""
        return bool(self._inference)

    def refusal(self, scope: Scope, endpoint: Endpoint | None) -> Refusal | None:
        """Return the answer to a request that may not pass; None when it may.

        Args:
            endpoint: that would answer; None: there is none, which anybody may be told who may use models.
        """
        if endpoint is not None and endpoint.name in self._open:
            return None
        route_class = "inference" if endpoint is None else endpoint.route_class
        if route_class == "control":
            if not self._management:
                return _refuse_pages(dict(scope["headers"]))
            return _check(scope, self._management, "management")
        if route_class == "observe":
            return _check(scope, self._observe, "management")
        if endpoint is not None and endpoint.name == "ping":
            return None
        return _check(scope, self._inference, "inference")


def _expected(token: str | None) -> tuple[bytes, ...]:
    return () if token is None else (f"Bearer {token}".encode(),)


def _check(scope: Scope, expected: tuple[bytes, ...], kind: str) -> Refusal | None:
    """Compare a request's token with each that opens the route, in a time that tells nothing of them."""
    if not expected:
        return None
    given = dict(scope["headers"]).get(b"authorization", b"")
    matches = [hmac.compare_digest(given, token) for token in expected]  # each, whatever the first says
    if any(matches):
        return None
    challenge = ((b"www-authenticate", f'Bearer realm="frame {kind}"'.encode()),)
    message = f"This route needs the {kind} token: Authorization: Bearer TOKEN"
    return Refusal(401, "UnauthorizedError", message, challenge)


def _refuse_pages(headers: dict[bytes, bytes]) -> Refusal | None:
    is_of_page = b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in _OWN_SITE
    if not is_of_page and _is_local(headers.get(b"host", b"")):
        return None
    message = "Without a management token this route is for clients of this machine, not for web pages"
    return Refusal(403, "ForbiddenError", message)


def _is_local(host: bytes) -> bool:
    """Tell whether a Host header names this machine; a name that merely resolves to it does not."""
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if not name or name in _LOCAL_NAMES:  # clients of Unix sockets send none, or an empty one
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

"""Who may use control routes: the one place that decides, in front of all of them."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

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
    """Decides on requests of the class *control*.

    With a token every request must carry it. Without one control routes are on loopback listeners alone, and
    what a browser sends on behalf of another page is refused: any page could have this machine load a model.
    """

    def __init__(self, token: str | None = None) -> None:
        """Ask for `token`; None: for none."""
        self._expected = None if token is None else f"Bearer {token}".encode()

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return the answer to a request that may not pass; None when it may."""
        headers = dict(scope["headers"])
        if self._expected is None:
            return _refuse_pages(headers)
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            return None
        challenge = ((b"www-authenticate", b'Bearer realm="frame management"'),)
        message = "This route needs the management token: Authorization: Bearer TOKEN"
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

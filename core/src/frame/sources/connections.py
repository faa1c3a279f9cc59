"""HTTP connections whose peers are checked before a byte is sent: they must be public addresses."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable

import httpcore

from frame.contract.sources import SourceError

_SOCKET_OPTION = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the very addresses that were checked, so that a name cannot mean another one later."""

    def __init__(self) -> None:
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a public address of `host`; raises `SourceError` when any of its addresses is not."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        for address in addresses:
            if not is_public(address):
                raise SourceError(
                    f"{host} is {address}, a loopback, link-local or private address; "
                    "allow_private_sources=true would let models be registered from there"
                )
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                return self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:  # noqa: PERF203  # a few addresses
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet, also when it hides in an IPv6 one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
        if inner:
            parsed = inner
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed not in _UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast and not any(parsed in net for net in _SPECIAL)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # all that is given out; the rest is local, mapped or reserved
# Python before 3.12.4 takes these for global: metadata services and relays (IANA's special-purpose registry).
_SPECIAL = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("192.88.99.0/24"))


def open_pool(*, allows_private: bool) -> httpcore.ConnectionPool:
    """Return connections that check certificates, and peers unless private ones are allowed."""
    return httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        network_backend=None if allows_private else CheckedBackend(),
        max_connections=2,
    )

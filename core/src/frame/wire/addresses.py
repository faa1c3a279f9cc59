"""Where a socket is: `unix:PATH` or `tcp:HOST:PORT`, an IPv6 host in brackets. Pure: text only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port; `host` is a name or a number, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = Union[UnixAddress, TcpAddress]


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: it is none; the message shows it and both forms.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 host without brackets: which part is the port is a guess
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) <= _MAX_PORT
    if scheme != "tcp" or not host or not is_port:
        raise ValueError(f"{text!r}: expected unix:PATH or tcp:HOST:PORT (an IPv6 host in brackets)")
    return TcpAddress(host, int(port))

"""Listen addresses: DJL Serving's `http://host[:port]`, `https://host[:port]` and `unix:/path`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from frame.errors import ConfigError

# serving/src/main/java/ai/djl/serving/util/Connector.java, with IPv6 in brackets.
_ADDRESS = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+)(?::(?P<port>\d+))?/?")
_DEFAULT_PORT = {"http": 80, "https": 443}
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Where a server listens.

    Attributes:
        host: a name or an IP address without brackets; "" for a Unix socket.
        port: 0 lets the kernel choose.
        path: of the Unix socket; "" otherwise.
    """

    scheme: Literal["http", "https", "unix"] = "http"
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether clients must speak TLS."""
        return self.scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str) -> ListenAddress:
    """Read `http://host[:port]`, `https://host[:port]` or `unix:/path`.

    Raises:
        ConfigError: anything else, or a port above 65535.
    """
    if text.startswith("unix:/"):
        return ListenAddress(scheme="unix", path=text.removeprefix("unix:"))
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} is no listen address; expected http://host[:port], https://host[:port] or unix:/path"
        )
    scheme: Literal["http", "https"] = "https" if match["scheme"] == "https" else "http"
    port = _DEFAULT_PORT[scheme] if match["port"] is None else int(match["port"])
    if port > _PORT_MAX:
        raise ConfigError(f"{text!r}: port {port} is above {_PORT_MAX}")
    return ListenAddress(scheme=scheme, host=match["host"].strip("[]"), port=port)

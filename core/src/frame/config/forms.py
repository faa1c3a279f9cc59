"""Values that are more than one word: device lists, variables, addresses. Pure."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

_DEVICE = re.compile(r"(?P<cpu>cpu|-1)|(?:gpu)?(?P<gpu>[0-9]+)", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#\s]+)(?::(?P<port>[0-9]{1,5}))?/?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a listener stands: a host and a port, or the path of a Unix socket (then scheme is `unix`).

    Port 0 lets the kernel choose one. IPv6 hosts are without brackets.
    """

    scheme: Literal["http", "https", "unix"]
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


def parse_pattern(text: str) -> str:
    """Return a regular expression as it is.

    Raises:
        ValueError: it is none.
    """
    try:
        re.compile(text)
    except re.error as error:
        message = f"{text!r} is no regular expression: {error}"
        raise ValueError(message) from error
    return text


def parse_address(text: str) -> Address:
    """Read `http://host[:port]`, `https://host[:port]` or `unix:/path`.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("unix:/"):
        return Address(scheme="unix", path="/" + text.removeprefix("unix:").lstrip("/"))
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 0) > _MAX_PORT:
        message = f"{text!r} is not an address; valid: http://host[:port], https://host[:port], unix:/path"
        raise ValueError(message)
    scheme: Literal["http", "https"] = "https" if match["scheme"] == "https" else "http"
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    return Address(scheme=scheme, host=match["host"].strip("[]"), port=port)


def parse_devices(text: str) -> tuple[str, ...]:
    """Read `*` or a `;` separated list of `cpu`, `-1`, `gpu0`, `0`, `gpu0+gpu1`.

    Returns `("*",)`, or canonical names: `cpu`, `gpu0`, `gpu0+gpu1`.

    Raises:
        ValueError: a name is no device.
    """
    if text in {"*", ""}:
        return ("*",)
    return tuple("+".join(_device(name, text) for name in entry.split("+")) for entry in text.split(";"))


def _device(name: str, text: str) -> str:
    match = _DEVICE.fullmatch(name.strip())
    if match is None:
        message = f"{name!r} in {text!r} is not a device; valid: *, or cpu, gpu0, gpu0+gpu1, separated by ;"
        raise ValueError(message)
    return "cpu" if match["cpu"] else f"gpu{int(match['gpu'])}"


def parse_variables(text: str) -> Mapping[str, str]:
    """Read `NAME=value,NAME2=value2`, environment variables for a worker.

    Raises:
        ValueError: an entry has no `=` or its name is no variable's.
    """
    found: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = entry.partition("=")
        if not sign or not _VARIABLE.fullmatch(name.strip()):
            message = f"{entry!r} is not NAME=value; valid: NAME=value,NAME2=value2"
            raise ValueError(message)
        found[name.strip()] = value.strip()
    return MappingProxyType(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PadTo:
    """How long a padded dimension gets; with neither field, as long as the batch's longest.

    Attributes:
        multiple: the next multiple of this; 0 for no such rule.
        lengths: the smallest of these that is long enough, in rising order; a longer request is refused.
    """

    multiple: int = 0
    lengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.lengths:
            return ",".join(map(str, self.lengths))
        return f"multiple:{self.multiple}" if self.multiple else "batch"


def parse_padding(text: str) -> PadTo:
    """Read `batch`, `multiple:8` or rising lengths `16,32,64`.

    Raises:
        ValueError: it is none of these.
    """
    if text == "batch":
        return PadTo()
    kind, sign, number = text.partition(":")
    if sign and kind == "multiple" and number.isdecimal() and int(number) > 0:
        return PadTo(multiple=int(number))
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and int(part) > 0 for part in parts):
        return PadTo(lengths=tuple(sorted({int(part) for part in parts})))
    message = f"{text!r} is no way to pad; valid: batch, multiple:8, or lengths such as 16,32,64"
    raise ValueError(message)


def parse_numbers(text: str) -> Mapping[str, float]:
    """Read `name=1,other=-100`.

    Raises:
        ValueError: an entry has no `=`, no name, or no finite number.
    """
    found: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = entry.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not sign or not name.strip() or not math.isfinite(number):
            message = f"{entry!r} is not name=number; valid: input_ids=0,labels=-100"
            raise ValueError(message)
        found[name.strip()] = number
    return MappingProxyType(found)

"""The hosts of a group, as options name them. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """A host and the ranks of a group that run there."""

    name: str
    ranks: int


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Read `host1:4,host2:4`; a host without a number has one rank, an IPv6 address is in brackets.

    Raises:
        ValueError: an entry is malformed; names `option.hosts`.
    """
    hosts = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
        if not name:
            name, count = entry, "1"
        if not (count or "1").isdecimal() or int(count or "1") < 1:
            raise ValueError(f"option.hosts={text}: {entry}: expected host:ranks, for example 10.0.0.1:4")
        hosts.append(Host(name, int(count or "1")))
    if not hosts:
        raise ValueError("option.hosts is empty; name hosts, for example 10.0.0.1:4,10.0.0.2:4")
    return tuple(hosts)

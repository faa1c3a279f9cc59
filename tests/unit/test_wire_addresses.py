"""Addresses of sockets: what they are written as, and what is none."""

from __future__ import annotations

import pytest
from frame.wire.addresses import TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/tmp/a:b/s", UnixAddress("/tmp/a:b/s")),
        ("tcp:10.0.0.1:4000", TcpAddress("10.0.0.1", 4000)),
        ("tcp:node-1:1", TcpAddress("node-1", 1)),
        ("tcp:[fe80::1]:65535", TcpAddress("fe80::1", 65535)),
    ],
)
def test_an_address_is_read_and_written_the_same(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "unix:", "/tmp/s", "tcp:host", "tcp::80", "tcp:host:0", "tcp:host:65536", "tcp:host:x",
             "tcp:fe80::1:80", "udp:host:80", "tcp:host:²"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_both_forms(text):
    with pytest.raises(ValueError, match="unix:PATH or tcp:HOST:PORT"):
        parse_address(text)

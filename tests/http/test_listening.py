"""Listen addresses and the sockets bound to them."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from frame.config.forms import Address, parse_address
from frame.http.listening import ListenError, listening


@pytest.mark.parametrize(
    ("text", "shown", "is_tls"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", False),
        ("https://example.org", "https://example.org:443", True),
        ("http://0.0.0.0", "http://0.0.0.0:80", False),
        ("http://[::1]:0/", "http://[::1]:0", False),
        ("unix:/tmp/frame.sock", "unix:/tmp/frame.sock", False),
    ],
)
def test_address_is_read_as_djl_serving_does(text: str, shown: str, is_tls: bool) -> None:
    address = parse_address(text)
    assert (str(address), address.is_tls) == (shown, is_tls)


@pytest.mark.parametrize(
    "text",
    ["", "8080", "127.0.0.1:8080", "ftp://h:1", "http://h:65536", "http://h:x", "unix:x", "http://h:1/p"],
)
def test_malformed_address_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("http://127.0.0.9:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("unix:/x", True),
        ("http://0.0.0.0:1", False),
        ("http://10.0.0.1:1", False),
        ("http://example.org:1", False),
    ],
)
def test_loopback_is_told_apart(text: str, is_loopback: bool) -> None:
    assert parse_address(text).is_loopback == is_loopback


def test_port_zero_becomes_the_kernels_choice() -> None:
    with listening(parse_address("http://127.0.0.1:0")) as (sockets, urls):
        port = sockets[0].getsockname()[1]
        assert port > 0
        assert urls == [f"http://127.0.0.1:{port}"]
        socket.create_connection(("127.0.0.1", port)).close()


def test_every_address_of_a_name_gets_the_same_port() -> None:
    with listening(parse_address("http://localhost:0")) as (sockets, urls):
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert len(urls) == len(sockets)
        assert urls[0].startswith("http://127.0.0.1:")


def test_port_in_use_is_named_with_what_to_do() -> None:
    with listening(parse_address("http://127.0.0.1:0")) as (_, urls):
        with pytest.raises(ListenError) as caught, listening(parse_address(urls[0])):
            pass
        text = str(caught.value)
        assert urls[0] in text
        assert "the port is in use" in text
        assert "--port" in text
        assert caught.value.exit_code == 2


def test_port_is_free_again_afterwards() -> None:
    with listening(parse_address("http://127.0.0.1:0")) as (_, urls):
        pass
    with listening(parse_address(urls[0])) as (_, again):
        assert again == urls


def test_foreign_address_is_refused() -> None:
    with (
        pytest.raises(ListenError, match=r"this machine does not have that address"),
        listening(
            parse_address("http://192.0.2.1:0")  # RFC 5737: nobody's
        ),
    ):
        pass


def test_unresolvable_host_is_named() -> None:
    address = Address(scheme="http", host="no-such-host.invalid", port=0)
    with pytest.raises(ListenError, match=r"no-such-host\.invalid"), listening(address):
        pass


def test_unix_socket_is_removed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(parse_address(f"unix:{path}")) as (_, urls):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert urls == [f"unix:{path}"]
    assert not path.exists()


def test_unix_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    with listening(parse_address(f"unix:{path}")):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(path))
        client.close()


def test_unix_socket_of_a_live_server_is_left_alone(tmp_path: Path) -> None:
    address = parse_address(f"unix:{tmp_path / 's'}")
    with listening(address):
        with pytest.raises(ListenError, match="something else has it"), listening(address):
            pass
        assert (tmp_path / "s").exists()


def test_ordinary_file_is_not_removed_for_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(ListenError), listening(parse_address(f"unix:{path}")):
        pass
    assert path.read_text() == "mine"


def test_successors_unix_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(parse_address(f"unix:{path}")) as (sockets, _):
        sockets[0].close()
        successor = listening(parse_address(f"unix:{path}"))
        successor.__enter__()
    assert path.exists()
    successor.__exit__(None, None, None)
    assert not path.exists()

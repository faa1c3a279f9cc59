"""Joining rank 0: who has the token and a place is let in, nobody keeps the others waiting."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from frame.wire.addresses import TcpAddress, UnixAddress
from frame.worker.door import free_port, join, open_door
from frame.worker.link import LinkError
from frame.worker.sockets import connect

LIMIT = 10.0


KINDS = {"unix": (socket.AF_UNIX, ""), "tcp": (socket.AF_INET, "127.0.0.1"), "tcp6": (socket.AF_INET6, "::1")}


@pytest.fixture(params=sorted(KINDS))
def door(request, tmp_path):
    """Give rank 0's door, beside a router's socket of each kind."""
    family, host = KINDS[request.param]
    with closing(socket.socket(family, socket.SOCK_STREAM)) as router:
        address = UnixAddress(str(tmp_path / "s"))
        try:
            router.bind((host, 0) if host else address.path)
        except OSError as error:
            pytest.skip(f"{request.param}: {error}")
        if host:
            address = TcpAddress(host, router.getsockname()[1])
        router.listen(8)
        with closing(connect(address, LIMIT)) as connection:
            opened = open_door(address, connection)
        yield opened
        opened.close()


def joined(door, *ranks, token="secret"):
    """Let ranks join in threads; return what they got, and what rank 0 got."""
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(join, door.address, rank, token, LIMIT) for rank in ranks]
        inside = door.let_in(max(ranks) + 1, token, LIMIT)
        return [other.result() for other in others], inside


def close_all(*groups):
    for group in groups:
        for connection in group:
            connection.close()


def test_the_ranks_are_let_in_whatever_their_order(door):
    others, inside = joined(door, 3, 1, 2)
    inside[0].sendall(b"to rank 1")
    inside[2].sendall(b"to rank 3")
    assert others[1].recv(100) == b"to rank 1"
    assert others[0].recv(100) == b"to rank 3"
    close_all(others, inside)


def test_another_token_is_refused_and_rank_0_goes_on_to_wait(door):
    with ThreadPoolExecutor() as pool:
        rank_0 = pool.submit(door.let_in, 2, "secret", LIMIT)
        with pytest.raises(LinkError, match="rank 1"):
            join(door.address, 1, "guess", LIMIT)
        other = join(door.address, 1, "secret", LIMIT)
        close_all([other], rank_0.result())


@pytest.mark.parametrize("rank", [0, 1, 3, 2**32 - 1])
def test_a_rank_that_is_in_or_that_does_not_exist_is_refused(door, rank):
    with ThreadPoolExecutor() as pool:
        rank_0 = pool.submit(door.let_in, 3, "secret", LIMIT)
        first = join(door.address, 1, "secret", LIMIT)
        with pytest.raises(LinkError):
            join(door.address, rank, "secret", LIMIT)
        second = join(door.address, 2, "secret", LIMIT)
        close_all([first, second], rank_0.result())


def test_silent_and_garbled_connections_keep_nobody_waiting(door):
    silent, garbled, brief = (connect(door.address, LIMIT) for _ in range(3))
    garbled.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n")
    brief.close()
    with ThreadPoolExecutor() as pool:
        rank_0 = pool.submit(door.let_in, 2, "secret", LIMIT, patience=0.5)
        silent.settimeout(LIMIT)
        assert silent.recv(1) == b""
        other = join(door.address, 1, "secret", LIMIT)
        close_all([other, silent, garbled], rank_0.result())


def test_ranks_that_do_not_come_are_named(door):
    threads = [threading.Thread(target=lambda: kept.append(join(door.address, 2, "secret", LIMIT)))]
    kept: list[socket.socket] = []
    threads[0].start()
    with pytest.raises(LinkError, match=r"rank 1, 3 did not join rank 0 within 0\.2 s"):
        door.let_in(4, "secret", 0.2)
    threads[0].join()
    assert kept[0].recv(1) == b""
    close_all(kept)


def test_nobody_at_the_door_is_an_error_that_names_the_address(tmp_path):
    with pytest.raises(LinkError, match="rank 1 cannot reach rank 0 at unix:"):
        join(UnixAddress(str(tmp_path / "none")), 1, "secret", LIMIT)
    with pytest.raises(LinkError, match="rank 1 cannot reach rank 0 at tcp:127"):
        join(TcpAddress("127.0.0.1", free_port()), 1, "secret", LIMIT)


def test_a_closed_door_leaves_no_file(door):
    door.close()
    with pytest.raises(LinkError):
        join(door.address, 1, "secret", LIMIT)

"""The worker's end of the socket: whole messages, in order, with their parts, from any thread."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from frame.api import Part
from frame.wire.addresses import TcpAddress
from frame.wire.frames import WireError, frame_header
from frame.wire.messages import AnswerHead, AnswersHead, EndHead, Kind, StageHead
from frame.wire.parts import MEMFD_BYTES, append, open_memfd
from frame.worker.channel import Channel, PartReader, place_parts
from frame.worker.sockets import connect

DEADLINE = 10.0


@pytest.fixture
def ends():
    """Two ends of one connection."""
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def channels(ends):
    return Channel(ends[0]), Channel(ends[1])


def read(channel, count):
    """Return a number of messages."""
    found = []
    deadline = time.monotonic() + DEADLINE
    while len(found) < count:
        assert time.monotonic() < deadline
        found += channel.read(deadline - time.monotonic())
    assert len(found) == count
    return found


def in_thread(action):
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_messages_come_in_the_order_in_which_they_were_sent(channels):
    near, far = channels
    for number in range(200):
        near.send(Kind.END, EndHead(number, "é"))
    found = read(far, 200)
    assert [(message.kind, message.head["job"]) for message in found] == [(Kind.END, n) for n in range(200)]
    assert found[0].head["error"] == "é"


def test_parts_small_large_and_empty_arrive_as_they_were(channels):
    near, far = channels
    large = os.urandom(MEMFD_BYTES)
    parts = [Part("a", b"small"), Part("b", large), Part("c", b""), Part("d", bytearray(large[:-1]))]
    placed = place_parts(parts)
    assert [index for *_, index in placed] == [-1, 0, -1, -1]
    sender = in_thread(lambda: near.send(Kind.STAGE, StageHead("x"), [part.data for part in parts]))
    message = read(far, 1)[0]
    sender.join(DEADLINE)
    found = PartReader(message.buffers).take(placed)
    assert [(part.key, bytes(part.data)) for part in found] == [
        (part.key, bytes(part.data)) for part in parts
    ]


def test_a_message_far_larger_than_the_sockets_buffer_arrives_whole(channels):
    near, far = channels
    pieces = [bytes([number % 256]) * 700_000 for number in range(12)]
    sender = in_thread(lambda: near.send(Kind.STAGE, StageHead("x"), pieces))
    body, *mapped = read(far, 1)[0].buffers
    sender.join(DEADLINE)
    assert body == b"".join(pieces)
    assert mapped == []


def test_more_segments_than_one_system_call_takes_arrive_in_order(channels):
    near, far = channels
    pieces = [b"%04d" % number for number in range(2000)]
    near.send(Kind.STAGE, StageHead("x"), pieces)
    assert bytes(read(far, 1)[0].buffers[0]) == b"".join(pieces)


def test_messages_of_several_threads_are_not_mixed(channels):
    near, far = channels

    def send(number):
        for _ in range(20):
            near.send(Kind.STAGE, StageHead(str(number)), [bytes([number]) * 30_000] * 3)

    threads = [in_thread(lambda number=number: send(number)) for number in range(4)]
    for message in read(far, 80):
        assert bytes(message.buffers[0]) == bytes([int(message.head["stage"])]) * 90_000
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_nothing_to_read_is_no_message(channels):
    assert channels[0].read(0.0) == []


def test_the_end_of_the_connection_is_an_error(channels, ends):
    ends[0].close()
    with pytest.raises(ConnectionError, match="the router closed the connection"):
        channels[1].read(DEADLINE)


def test_the_end_of_the_connection_within_a_large_body_is_an_error(channels, ends):
    ends[0].sendall(frame_header(Kind.STAGE, b"{}", 1 << 20) + b"begin")
    assert channels[1].read(DEADLINE) == []
    ends[0].close()
    with pytest.raises(ConnectionError):
        channels[1].read(DEADLINE)


def test_an_unsealed_part_is_refused(channels, ends):
    descriptor = open_memfd()
    append(descriptor, b"may change")
    socket.send_fds(ends[0], [frame_header(Kind.STAGE, b"{}", 0, 1)], [descriptor])
    os.close(descriptor)
    with pytest.raises(ValueError, match="not sealed"):
        channels[1].read(DEADLINE)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", WireError),
        (frame_header(99, b"{}", 0), ValueError),
        (frame_header(Kind.STAGE, b"no json", 0), ValueError),
    ],
)
def test_what_is_no_message_is_refused(channels, ends, data, error):
    ends[0].sendall(data)
    with pytest.raises(error):
        channels[1].read(DEADLINE)


def test_sent_parts_leave_no_descriptor_behind(channels):
    near, far = channels
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is needed
    near.send(Kind.STAGE, StageHead("x"), [b"x" * MEMFD_BYTES] * 3)
    message = read(far, 1)[0]
    assert len(message.buffers) == 4
    del message
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.fixture
def tcp_channels():
    """Two ends of one TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = connect(TcpAddress(*listener.getsockname()), DEADLINE)
        far, _ = listener.accept()
    with near, far:
        yield Channel(near), Channel(far)


def test_over_tcp_large_parts_are_inline_beside_small_ones(tcp_channels):
    near, far = tcp_channels
    bodies = [b"small", b"x" * MEMFD_BYTES, b"", b"y" * (MEMFD_BYTES + 1)]
    parts = [Part("data", body) for body in bodies]
    answers = AnswersHead(
        batch=1, jobs=[AnswerHead(id=1, status=200, message="OK", parts=place_parts(parts))]
    )
    stream = AnswerHead(id=2, status=200, message="OK", parts=place_parts(parts[1:2]))

    def send():
        near.send(Kind.ANSWERS, answers, bodies)
        near.send(Kind.STREAM, stream, bodies[1:2])
        near.send(Kind.END, EndHead(2))

    sender = in_thread(send)
    first, second, _ = read(far, 3)
    sender.join(DEADLINE)
    assert [
        bytes(part.data) for part in PartReader(first.buffers).take(first.head["jobs"][0]["parts"])
    ] == bodies
    assert [bytes(part.data) for part in PartReader(second.buffers).take(second.head["parts"])] == bodies[1:2]


def test_a_tcp_connection_fails_when_its_peer_is_lost_for_so_long(tcp_channels):
    near, _ = tcp_channels
    near.notice_loss(10)
    ours = near._socket
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    idle, interval, count = (
        ours.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + interval * count <= 10


def test_a_unix_socket_needs_nothing_to_notice_a_lost_peer(channels):
    channels[0].notice_loss(10)

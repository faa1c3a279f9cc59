"""Streams: piece by piece, each at its reader's pace, cut when something fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from frame.testing import Server, run_server

from tests.process.probes import (
    DEADLINE,
    JSON,
    TEXT,
    Connection,
    Gate,
    connection,
    error_of,
    metric,
    put_model,
    until,
)

# Each request is a JSON object that says what to stream.
STREAMING = """
from djl_python import Input, Output


def pieces(order):
    try:
        for number in range(order["count"]):
            for path in order.get("gates", ()):
                with open(path) as gate:
                    gate.read()
            if number == order.get("raise_at"):
                raise RuntimeError("the model broke in the middle")
            yield b"%06d" % number + b"." * order.get("padding", 0) + b"\\n"
    finally:
        if "ended" in order:
            with open(order["ended"], "a") as ended:
                ended.write("ended\\n")


def handle(inputs: Input):
    if inputs.is_empty():
        return None
    batch = inputs.get_batches()
    order = batch[0].get_as_json()
    if order.get("whole"):
        return Output().add("whole")
    output = Output().add_property("content-type", "text/plain")
    if order.get("wrapped"):
        return output.add_stream_content(iter(["a", 1]))
    return output.add_stream_content(pieces(order), None)
"""


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve streams of a handler, of a batching engine and of a sequence engine."""
    store = tmp_path_factory.mktemp("store")
    put_model(store / "stream", STREAMING, minWorkers=2, maxWorkers=2)
    put_model(store / "words", engine="echo", option__mode="stream", batch_size=4, max_batch_delay=500)
    put_model(store / "sequence", engine="echo", option__mode="sequence", option__delay_ms=20)
    environ = {"SERVING_DRAIN_TIMEOUT": "5"}
    with run_server(store, ["--http-server", request.param], environ=environ) as running:
        yield running


@contextmanager
def open_stream(server: Server, **order: object) -> Iterator[Connection]:
    """Start a stream on a bare connection; leaving the block is the client's going away."""
    with connection(server) as raw:
        body = httpx.Request("POST", "http://x", json=order).content
        raw.send("POST /predictions/stream", {**JSON, "content-length": len(body)}, body)
        yield raw


def is_ended(marker: Path, count: int = 1) -> bool:
    """Tell whether so many generators have ended."""
    return marker.exists() and marker.read_text().count("ended") == count


def test_pieces_arrive_one_by_one_before_the_end(server: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with open_stream(server, count=3, gates=[str(gate)]) as raw:
        for number in range(3):
            gate.wait_reached()  # the model waits, and what it made before can be read
            gate.open()
            assert raw.read_until(b"%06d" % number)
        raw.read_until(b"0\r\n\r\n")


def test_stream_has_no_length_and_its_own_properties(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predictions/stream", json={"count": 3}, timeout=DEADLINE)
    assert answer.status_code == 200
    assert "content-length" not in answer.headers
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-request-id"]
    assert answer.text.split() == ["000000", "000001", "000002"]


def test_handler_decides_for_each_request_whether_it_streams(server: Server) -> None:
    whole = httpx.post(f"{server.url}/predictions/stream", json={"whole": True}, timeout=DEADLINE)
    assert (whole.headers["content-length"], whole.text) == ("5", "whole")
    wrapped = httpx.post(f"{server.url}/predictions/stream", json={"wrapped": True}, timeout=DEADLINE)
    assert wrapped.text == '{"outputs": "a"}\n{"outputs": 1}\n'


def test_client_that_goes_away_stops_the_generator(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    before = metric(server, "frame_requests_total", model="stream", outcome="cancelled")
    with open_stream(server, count=10**9, ended=str(marker)) as raw:
        raw.read_until(b"000010")
    until(lambda: is_ended(marker), what="generator's finally")
    until(lambda: metric(server, "frame_requests_total", model="stream", outcome="cancelled") == before + 1)


def test_generator_ends_once_after_a_whole_stream(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    httpx.post(
        f"{server.url}/predictions/stream",
        json={"count": 5, "ended": str(marker)},
        timeout=DEADLINE,
    )
    until(lambda: is_ended(marker))


def test_reader_that_stops_reading_stops_its_own_stream_alone(server: Server, tmp_path: Path) -> None:
    """The slow stream is far larger than all buffers on the way."""
    marker = tmp_path / "ended"
    with open_stream(server, count=10**6, padding=50_000, ended=str(marker)) as slow:
        slow.read_until(b"000000")
        for _ in range(3):
            with open_stream(server, count=200, padding=1000) as fast:
                fast.read_until(b"000199")
        assert not marker.exists()
        assert rss_bytes(server.pid) < 400_000_000
    until(lambda: is_ended(marker))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_slow_reader_gets_everything_in_the_end(server: Server) -> None:
    with open_stream(server, count=3000, padding=2000) as raw:
        raw.read_until(b"000000")
        fast = httpx.post(f"{server.url}/predictions/stream", json={"count": 10}, timeout=DEADLINE)
        assert fast.text.split()[-1] == "000009"
        assert b"002999" in raw.read_until(b"\r\n0\r\n\r\n")


def test_exception_in_the_middle_cuts_the_connection(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    with open_stream(server, count=10, raise_at=3, ended=str(marker)) as raw:
        got = raw.read_to_end()
    assert got.startswith(b"HTTP/1.1 200")
    assert b"000002" in got
    assert b"000003" not in got
    assert b"broke" not in got
    assert not got.endswith(b"0\r\n\r\n")  # the client sees that the answer is not whole
    assert is_ended(marker)
    again = httpx.post(f"{server.url}/predictions/stream", json={"count": 1}, timeout=DEADLINE)
    assert again.text == "000000\n"


def test_exception_before_the_first_piece_is_an_error(server: Server) -> None:
    order = {"count": 10, "raise_at": 0}
    answer = httpx.post(f"{server.url}/predictions/stream", json=order, timeout=DEADLINE)
    assert answer.status_code == 424
    assert "Traceback" not in answer.text


def test_streams_of_one_batch_advance_together(server: Server) -> None:
    url = f"{server.url}/predictions/words"
    texts = [f"{letter}1 {letter}2 {letter}3" for letter in "abcd"]

    def send(text: str) -> httpx.Response:
        return httpx.post(url, content=text, headers={**TEXT, "x-frame-timings": "1"}, timeout=DEADLINE)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, texts))
    assert [answer.text.strip() for answer in answers] == texts


def test_requests_of_a_sequence_model_run_at_once(server: Server) -> None:
    """The long one gives its last word after the short one, which began later, has ended."""
    url = f"{server.url}/predictions/sequence"
    many = " ".join(str(number) for number in range(100))
    has_begun = threading.Event()
    ended: list[str] = []

    def read(text: str) -> str:
        got = b""
        with httpx.stream("POST", url, content=text, headers=TEXT, timeout=DEADLINE) as answer:
            for piece in answer.iter_raw():
                got += piece
                has_begun.set()
        ended.append(text)
        return got.decode().strip()

    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(read, many)
        assert has_begun.wait(DEADLINE)
        short = pool.submit(read, "one two three")
        assert short.result() == "one two three"
        assert long.result() == many
    assert ended == ["one two three", many]


def test_request_of_a_sequence_model_whose_client_goes_away_frees_its_place(server: Server) -> None:
    before = metric(server, "frame_requests_total", model="sequence", outcome="cancelled")
    words = b"w " * 100_000
    with connection(server) as raw:
        raw.send("POST /predictions/sequence", {**TEXT, "content-length": len(words)}, words)
        raw.read_until(b"w ")
    until(lambda: metric(server, "frame_requests_total", model="sequence", outcome="cancelled") == before + 1)
    again = httpx.post(f"{server.url}/predictions/sequence", content="x", headers=TEXT, timeout=DEADLINE)
    assert again.text.strip() == "x"


def test_first_piece_that_does_not_come_in_time_is_an_error(tmp_path: Path) -> None:
    put_model(tmp_path / "store" / "stream", STREAMING, option__predict_timeout=0.5)
    gate = Gate(tmp_path)
    with run_server(tmp_path / "store") as running:
        order = {"count": 2, "gates": [str(gate)]}
        answer = httpx.post(f"{running.url}/predictions/stream", json=order, timeout=DEADLINE)
        assert error_of(answer)[:2] == (503, "PredictTimeoutError")


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
def test_stream_whose_client_went_away_does_not_hold_up_the_end(tmp_path: Path, name: str) -> None:
    put_model(tmp_path / "store" / "stream", STREAMING)
    marker = tmp_path / "ended"
    environ = {"SERVING_DRAIN_TIMEOUT": "5"}
    with run_server(tmp_path / "store", ["--http-server", name], environ=environ) as running:
        with open_stream(running, count=10**9, ended=str(marker)) as raw:
            raw.read_until(b"000010")
        until(lambda: is_ended(marker))
        until(lambda: metric(running, "frame_requests_total", model="stream", outcome="cancelled") == 1)
        assert running.stop() == 0
        assert "requests_cut" not in running.log()

"""What went wrong in other model servers does not go wrong here: a test for each kind of incident.

A name without a file is a test below.

| what went wrong elsewhere | test |
| --- | --- |
| management on all interfaces, open to everybody | test_by_default_nothing_listens_beyond_this_machine |
| models fetched from wherever a stranger says | test_hostile.py, test_public_addresses.py |
| settings and models read by YAML, pickle, torch.load | test_dangerous_imports.py |
| recorded requests replayed by unpickling | test_dangerous_imports.py |
| a pickle in a request, chosen by its content type | test_a_pickle_is_loaded_under_no_content_type |
| a pickled array in a request | test_tensor_input.py::test_pickled_array_is_refused_and_not_loaded |
| error texts with internal names or addresses | test_errors_name_nothing_internal |
| image errors with addresses | test_codecs_images.py::test_bytes_that_are_no_image_are_refused |
| millions of tiny chunks with memory of their own | test_a_body_of_tiny_chunks_takes_no_more_than_its_bytes |
| bodies of any size | test_djl_contract.py::test_too_large_body_is_413 |
| more bodies than memory | test_back_pressure.py::test_bytes_beyond_the_budget_are_503_before_they_are_sent |
| forms that take the square of their size | test_codecs_multipart.py::test_a_form_takes_time_... |
| headers that unpack to far more, or never end | test_http2_limits.py, test_header_limits.py |
| headers that come byte by byte | test_limits_of_connections_reach_a_running_server |
| a route, or a method, that the token did not cover | test_no_method_of_any_route_is_open |
| the platform's routes | test_tokens.py::test_with_a_token_of_inference_... |
| names that are paths, decoded twice | test_names_are_no_paths |
| other spellings of a path | test_tokens.py::test_paths_written_otherwise_are_nowhere |
| a web page, or a name made to resolve to this machine | test_guard.py |
| the log, or a file of a model, written where a client says | test_no_request_names_a_file_to_write |
| internal sockets that follow the public address | test_an_open_address_opens_nothing_else |
| sockets that any user may write to | test_sockets_between_processes_are_private |
| code that comes with a model, or that a request names | test_secure_mode.py, test_bodies_do_not_choose_... |
| urls in requests, fetched by the server | test_dangerous_imports.py |
"""

from __future__ import annotations

import http.client
import os
import pickle
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from frame.http.routes import default_table
from frame.http.servers import ServerName
from frame.testing import Server, run_server

from tests.http.serving import SERVERS
from tests.process.probes import DEADLINE, OBEDIENT, connection, descendants, put_model, worker_pids

pytestmark = pytest.mark.slow(120)
TOKEN = "a-token-of-management-01"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "DELETE ")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incidents") / "store"
    put_model(folder / "obedient", OBEDIENT, maxWorkers=1)
    put_model(folder / "echo", engine="echo", maxWorkers=1)
    return folder


@pytest.fixture(scope="module", params=SERVERS)
def http_server(request: pytest.FixtureRequest) -> ServerName:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def server(store: Path, http_server: ServerName) -> Iterator[Server]:
    with run_server(store, ["--http-server", http_server]) as running:
        yield running


def _listening(pid: int) -> set[tuple[str, int]]:
    """Return the TCP addresses at which a process listens, as the kernel writes them."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
        except FileNotFoundError:  # closed since
            continue
        if found:
            inodes.add(found[1])
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].partition(":")
                addresses.add((host, int(port, 16)))
    return addresses


def _all_listening(server: Server) -> set[tuple[str, int]]:
    return set().union(*(_listening(pid) for pid in (server.pid, *descendants(server.pid))))


LOOPBACK = re.compile(r"[0-9A-F]{6}7F|0{24}01000000")  # 127.x.x.x and ::1 in the kernel's order of bytes


def test_by_default_nothing_listens_beyond_this_machine(server: Server) -> None:
    """A server whose management was on all interfaces, without a token,
    was taken over by whoever found it."""
    found = _all_listening(server)
    assert {port for _, port in found} == {urlsplit(server.url).port}
    assert all(LOOPBACK.fullmatch(host) for host, _ in found), found


def test_an_open_address_opens_nothing_else(store: Path) -> None:
    """Sockets between a server's processes took over the public `--host`, and unpickled what came to them."""
    with run_server(store, ["--host", "0.0.0.0"]) as server:
        found = _all_listening(server)
    assert found == {("00000000", urlsplit(server.url).port)}


def test_sockets_between_processes_are_private(server: Server) -> None:
    """Sockets and shared memory of other servers could be opened by every user of the machine."""
    pids = [server.pid, *worker_pids(server, "echo"), *worker_pids(server, "obedient")]
    inodes = {
        line.split()[6]: line.split()[7]
        for line in Path(f"/proc/{server.pid}/net/unix").read_text().splitlines()[1:]
        if len(line.split()) == 8
    }
    held = {
        target[8:-1]
        for pid in pids
        for target in (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
        if target.startswith("socket:")
    }
    paths = {Path(inodes[inode]) for inode in held & inodes.keys() if inodes[inode].startswith("/")}
    assert paths
    for path in paths:
        mode = path.parent.stat().st_mode
        assert stat.S_IMODE(mode) == 0o700, path
        assert path.parent.stat().st_uid == os.getuid()


def test_no_method_of_any_route_is_open(store: Path, http_server: ServerName) -> None:
    """A filter knew POST and let DELETE pass; a later route was not behind the filter at all."""
    environ = {
        "SERVING_INFERENCE_ADDRESS": "http://127.0.0.1:0", "SERVING_HTTP_SERVER": http_server,
        "SERVING_MANAGEMENT_ADDRESS": "http://0.0.0.0:0",
    }  # fmt: skip
    for token in ({}, {"FRAME_MANAGEMENT_TOKEN": TOKEN}):
        with run_server(store, environ={**environ, **token}) as server:
            found = server.wait_for_log(r"server_ready address=http://0\.0\.0\.0:(\d+)")
            statuses = _statuses("127.0.0.1", int(found[1]))
            open_ones = {asked for asked, status in statuses.items() if status < 400}
            assert {path for _, path in open_ones} <= {"/ping", "/"}
            assert {method for method, path in open_ones if path == "/"} <= {"OPTIONS"}
            assert set(statuses.values()) - {200} <= {400, 401, 403, 404, 405}
            listed = httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()
            assert set(listed) == {"echo", "obedient"}


def _statuses(host: str, port: int) -> dict[tuple[str, str], int]:
    found = {}
    for endpoint in default_table().endpoints:
        path = endpoint.path.replace("{model}", "echo").replace("{version}", "default")
        for method in METHODS:
            with socket.create_connection((host, port), timeout=DEADLINE) as plain:
                plain.sendall(
                    f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode()
                )
                answer = http.client.HTTPResponse(plain, method=method)
                answer.begin()
                found[method, path] = answer.status
    return found


def test_errors_name_nothing_internal(server: Server) -> None:
    """An error told the name of a shared memory region,
    which a public route then took; another an address."""
    pids = {str(pid) for pid in (server.pid, *descendants(server.pid))}
    sockets = {line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines() if "/" in line}
    folders = {str(Path(path).parent) for path in sockets} | {"/proc", "memfd", "/dev/shm"}
    bodies = (b"", b"{", b"[1, 2", b"\xff" * 100, b'{"raise": "x"}', b'{"gates": ["/none"]}', b"null", b"3")
    types = (
        "application/json", "tensor/ndlist", "tensor/npz", "tensor/safetensors", "image/png",
        "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain", "none/of/these",
    )  # fmt: skip
    failed = 0
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        for path in ("/predictions/obedient", "/predictions/none", "/predictions/echo/7", "/invocations"):
            for content_type in types:
                for body in bodies:
                    answer = client.post(path, content=body, headers={"content-type": content_type})
                    if answer.status_code < 400:
                        continue
                    failed += 1
                    assert not re.search(r"0x[0-9a-f]{6,}| at 0x|Traceback|\.py\b", answer.text), answer.text
                    assert not any(folder in answer.text for folder in folders if len(folder) > 1)
                    assert not pids & set(re.findall(r"\d+", answer.json()["message"]))
    assert failed > 100


def _peak_bytes(server: Server) -> int:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert peak is not None
    return int(peak[1]) * 1024


def test_a_body_of_tiny_chunks_takes_no_more_than_its_bytes(server: Server) -> None:
    """Each chunk of a body took memory of its own,
    on the stack: some megabytes of six bytes each ended it."""
    count = 300_000
    before = _peak_bytes(server)
    with connection(server) as opened:
        opened.send("POST /predictions/echo", {"transfer-encoding": "chunked", "content-type": "text/plain"})
        opened.socket.sendall(b"1\r\nx\r\n" * count + b"0\r\n\r\n")
        head = opened.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert f"content-length: {count}".encode() in head.lower()
        opened.read_until(b"x" * count)
    assert _peak_bytes(server) < before + 100 * count, "some hundred bytes a chunk would be more"


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_is_loaded_under_no_content_type(server: Server, tmp_path: Path, protocol: int) -> None:
    """The client's content type chose a decoder, and one of them was pickle."""
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"), protocol)
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "works"), protocol))
    assert (tmp_path / "works").exists()
    for content_type in (
        "application/octet-stream", "application/x-pickle", "application/vnd.bentoml+pickle",
        "application/x-dill",
        "application/x-torch", "application/x-cloudpickle", "application/python-pickle", "tensor/ndlist",
        "tensor/npz", "tensor/safetensors", "application/x-npy", "application/json", "image/png",
        "text/plain", "",
    ):  # fmt: skip
        for model in ("obedient", "echo"):
            headers = {"content-type": content_type, "accept": content_type or "*/*"}
            httpx.post(f"{server.url}/predictions/{model}", content=bomb, headers=headers, timeout=DEADLINE)
    assert not (tmp_path / "exploded").exists()


def test_bodies_do_not_choose_what_is_run(server: Server, tmp_path: Path) -> None:
    """A request's own fields named code to import, or a function to call."""
    made = tmp_path / "made"
    fields = {
        "trust_remote_code": True, "auto_map": {"AutoModel": "os--mkdir"},
        "custom_logit_processor": "os.mkdir",
        "__class__": "os.mkdir", "handler": "os.mkdir", "entryPoint": str(tmp_path), "path": str(made),
    }  # fmt: skip
    for model in ("obedient", "echo"):
        url = f"{server.url}/predictions/{model}"
        assert httpx.post(url, json=fields, timeout=DEADLINE).status_code == 200
        refused = httpx.post(url, json={}, headers={"handler": "os.mkdir"}, timeout=DEADLINE)
        assert refused.status_code == 400
    assert not made.exists()


NAMES = (
    "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc",
    "..%252f..%252fetc%252fpasswd", "..%5c..%5cetc",
    "%2fetc%2fpasswd", "....//etc", "%00", "echo%00.txt", "echo%2f..%2fobedient", "..;%2f",
    "%c0%ae%c0%ae%2f", "~root",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_paths(server: Server, name: str) -> None:
    """A name from a path was decoded twice, or joined to a folder before it was looked at."""
    target = urlsplit(server.url)
    for path in (
        f"/models/{name}",
        f"/predictions/{name}",
        f"/models/{name}/explain",
        f"/models/echo/{name}",
    ):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            plain = http.client.HTTPConnection(str(target.hostname), target.port, timeout=DEADLINE)
            plain.request(method, path, headers={"content-type": "application/json"}, body=b"{}")
            answer = plain.getresponse()
            text = answer.read().decode()
            plain.close()
            assert 400 <= answer.status < 500, (method, path, text)
            assert "root:" not in text
    assert set(httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()) == {"echo", "obedient"}


def test_no_request_names_a_file_to_write(server: Server, tmp_path: Path) -> None:
    """A request set the log's file, or brought files of a model with their own paths."""
    made = tmp_path / "made"
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        for name in ("log_file", "file", "path", "log-file", "log_dir", "filename"):
            answer = client.post("/server/logging", params={"level": "info", name: str(made)})
            assert answer.status_code == 400
            answer = client.post("/server/logging", json={"level": "info", name: str(made)})
            assert answer.status_code == 400
        for name in (f"file:{made}", f"file:../{made.name}", "model_snapshot", "cache_dir"):
            answer = client.post("/models", json={"url": "echo", "model_name": "new", name: str(made)})
            assert answer.status_code == 400, answer.text
        form = {"file": (f"../../{made.name}", b"x"), str(made): (str(made), b"y")}
        assert client.post("/predictions/echo", files=form).status_code in {200, 400}
    assert not made.exists()


def test_limits_of_connections_reach_a_running_server(store: Path, http_server: ServerName) -> None:
    """Clients that sent a header byte by byte held all connections of a server."""
    environ = {
        "SERVING_HTTP_SERVER": http_server, "SERVING_HEADER_TIMEOUT": "0.3",
        "SERVING_KEEP_ALIVE_TIMEOUT": "0.3",
        "SERVING_MAX_HEADER_SIZE": "2048",
    }  # fmt: skip
    with run_server(store, environ=environ) as server:
        for sent in (b"", b"GET /ping HT", b"GET /ping HTTP/1.1\r\nhost: h\r\nx: "):
            with connection(server) as opened:
                opened.socket.sendall(sent)
                assert opened.read_to_end() == b""
        with connection(server) as opened:
            opened.send("GET /ping", {"x-long": "y" * 3000})
            assert opened.read_to_end().startswith(b"HTTP/1.1 431 ")

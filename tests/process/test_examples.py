"""The example store, served: every model answers what its framework does, alone, together, interleaved."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from frame.testing.server import run_server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CASES = tomllib.loads((EXAMPLES / "cases.toml").read_text())["case"]
TENSOR_MODELS = sorted({case["model"] for case in CASES if case["engine"] != "python"})
BUILD = 280.0  # seconds for a build with its downloads
SENTENCES = {
    "inputs": ["input_ids int64 [-1, -1]", "attention_mask int64 [-1, -1]"],
    "outputs": ["embedding float32 [-1, 384]"],
}
SIGNATURES = {
    "basic_pitch": {
        "inputs": ["input_2 float32 [-1, 43844, 1]"],
        "outputs": [
            *("contour float32 [-1, 172, 264]", "note float32 [-1, 172, 88]", "onset float32 [-1, 172, 88]"),
        ],
    },
    "magika": {"inputs": ["bytes int32 [-1, 2048]"], "outputs": ["target_label float32 [-1, 214]"]},
    "minilm": SENTENCES,
    "minilm_export": SENTENCES,
    "silero_vad_jit": {"inputs": ["x float32 [-1, 512]"], "outputs": ["speech float32 [-1, 1]"]},
    "silero_vad_onnx": {
        "inputs": ["input float32 [-1, -1]", "state float32 [2, -1, 128]", "sr int64 []"],
        "outputs": ["output float32 [-1, 1]", "stateN float32 [-1, -1, -1]"],
    },
    "text_direction": {
        "inputs": ["x float32 [-1, 3, -1, -1]"],
        "outputs": ["save_infer_model/scale_0.tmp_1 float32 [-1, 2]"],
    },
}
START = 240.0  # seconds until nine models on two cores are ready
CHUNK = 512  # samples, of the voice detector
CONTEXT = 64
pytestmark = pytest.mark.slow(300)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['request']}")


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def store() -> Path:
    """Return the built store."""
    run("build_store.py")
    return EXAMPLES / "model_store"


@pytest.fixture(scope="session")
def direct(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the whole answers of the frameworks, run without the server."""
    folder = tmp_path_factory.mktemp("direct")
    run("make_answers.py", "--store", str(store), "--out", str(folder), "--full")
    return folder


@pytest.fixture(scope="session")
def url(store: Path) -> Iterator[str]:
    """Serve the store; return the server's address when every model is ready."""
    with run_server(store, timeout=START) as server:
        states = httpx.get(f"{server.url}/ping", timeout=5)
        assert {state["status"] for state in states.json().values()} == {"Healthy"}, (
            states.text + server.log()
        )
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


def send(client: httpx.Client, case: dict[str, Any]) -> Any:
    """Send a case's request and return the JSON answer."""
    body = (EXAMPLES / "requests" / case["model"] / case["request"]).read_bytes()
    headers = {"content-type": case["content_type"], "accept": case["accept"]}
    answer = client.post(f"/predictions/{case['model']}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


def known(case: dict[str, Any]) -> dict[str, Any]:
    stem = Path(case["request"]).stem
    return json.loads((EXAMPLES / "requests" / case["model"] / f"{stem}.known.json").read_text())


def differences(got: Any, wanted: Any, tolerance: float, where: str = "answer") -> list[str]:
    """Return where two JSON values differ by more than the tolerance."""
    if isinstance(wanted, dict) and isinstance(got, dict) and got.keys() == wanted.keys():
        pairs = [(got[key], wanted[key], f"{where}.{key}") for key in wanted]
    elif isinstance(wanted, list) and isinstance(got, list) and len(got) == len(wanted):
        pairs = [
            (one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(got, wanted, strict=True))
        ]
    elif isinstance(wanted, float) and isinstance(got, (int, float)):
        return [] if abs(got - wanted) <= tolerance else [f"{where}: {got}, not {wanted}"]
    else:
        return [] if got == wanted else [f"{where}: {str(got)[:100]}, not {str(wanted)[:100]}"]
    return list(itertools.chain.from_iterable(differences(*pair[:2], tolerance, pair[2]) for pair in pairs))


def follow(answer: Any, path: list[str | int]) -> Any:
    for step in path:
        answer = answer[step]
    return answer


def as_known(answer: Any, case: dict[str, Any]) -> list[str]:
    """Return where an answer differs from the known one."""
    kept = known(case)
    found = [
        differences(follow(answer, part["path"]), part["equals"], kept["tolerance"]) for part in kept["parts"]
    ]
    return list(itertools.chain.from_iterable(found))


@each_case
def test_each_request_gets_its_known_answer(client: httpx.Client, case: dict[str, Any]) -> None:
    assert as_known(send(client, case), case) == []


def worker_pids(client: httpx.Client, model: str) -> set[int]:
    """Return the processes of a model's ready workers."""
    (version,) = client.get(f"/models/{model}").json()
    groups = version["models"][0]["workerGroups"]
    return {item["pid"] for group in groups for item in group["workers"] if item["status"] == "READY"}


@pytest.mark.parametrize("model", ["magika", "minilm", "basic_pitch", "silero_vad"])
def test_a_worker_of_each_engine_killed_while_serving_comes_back(client: httpx.Client, model: str) -> None:
    (case,) = [case for case in CASES if case["model"] == model]
    before = worker_pids(client, model)
    assert before
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(send, client, case) for _ in range(24)]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert [as_known(answer.result(), case) for answer in answers] == [[]] * 24
    assert as_known(send(client, case), case) == []
    after = worker_pids(client, model)
    assert after
    assert after.isdisjoint(before)


@each_case
def test_the_server_answers_as_the_framework_does(
    client: httpx.Client, direct: Path, case: dict[str, Any]
) -> None:
    wanted = json.loads((direct / case["model"] / f"{Path(case['request']).stem}.full.json").read_text())
    got = send(client, case)
    if "state" in got:
        got["state"] = floats(got["state"])
    assert differences(got, wanted, known(case)["tolerance"]) == []


def floats(text: str) -> list[float]:
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def test_every_printed_curl_line_works_when_pasted(url: str) -> None:
    lines = [line for line in run("curl.py", "--url", url).splitlines() if line.startswith("curl ")]
    assert len(lines) == len(CASES)
    for line, case in zip(lines, CASES, strict=True):
        command = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "show" in case:
            assert done.stdout.startswith(case["shows"]), line
        else:
            assert as_known(json.loads(done.stdout), case) == [], line


@pytest.mark.parametrize("model", TENSOR_MODELS)
def test_a_model_says_what_goes_in_and_comes_out(client: httpx.Client, model: str) -> None:
    signature = client.get(f"/models/{model}").json()[0]["models"][0]["signature"]
    assert {side: [tensor_text(spec) for spec in signature[side]] for side in signature} == SIGNATURES[model]


def tensor_text(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {spec['dtype']} {spec['shape']}"


def test_all_models_answer_right_when_all_are_asked_at_once(client: httpx.Client) -> None:
    wanted = CASES * 4
    with ThreadPoolExecutor(len(wanted)) as clients:
        answers = list(clients.map(lambda case: send(client, case), wanted))
    for case, answer in zip(wanted, answers, strict=True):
        assert as_known(answer, case) == [], case["model"]


@pytest.mark.parametrize("model", TENSOR_MODELS)
def test_a_wrong_request_fails_alone_and_says_which_input(client: httpx.Client, model: str) -> None:
    case = next(case for case in CASES if case["model"] == model)

    def ask(is_wrong: bool) -> Any:
        if not is_wrong:
            return send(client, case)
        wrong = {"inputs": {"no_such_input": [[1, 2, 3]]}}
        return client.post(f"/predictions/{model}", json=wrong)

    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(ask, [False, True] * 3))
    for answer in answers[::2]:
        assert as_known(answer, case) == []
    for refused in answers[1::2]:
        assert refused.status_code == 400
        error = refused.json()
        assert error["code"] == 400
        assert "no_such_input" in error["message"]
        assert "Traceback" not in refused.text


def test_a_wrong_clip_fails_alone(client: httpx.Client) -> None:
    case = next(case for case in CASES if case["model"] == "silero_vad")

    def ask(body: dict[str, Any] | None) -> Any:
        return send(client, case) if body is None else client.post("/predictions/silero_vad", json=body)

    wrong = [{"audio": [0.0] * 100}, {"audio": "loud"}, {"audio": [0.0] * CHUNK, "state": "AAAA"}]
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(ask, [None, wrong[0], None, wrong[1], None, wrong[2]]))
    for answer in answers[::2]:
        assert as_known(answer, case) == []
    assert [refused.status_code for refused in answers[1::2]] == [400, 400, 400]


# Two clients of the voice detector, one who hums and one who is silent after a click.


def sounds() -> dict[str, list[list[float]]]:
    """Return each client's chunks: the sung vowel of the example, in pieces, and something else."""
    sung = json.loads((EXAMPLES / "requests/silero_vad/request.json").read_text())["audio"]
    vowel = [sung[start : start + CHUNK] for start in range(0, len(sung), CHUNK)] * 2
    click = [[0.9 if at == 7 else 0.0 for at in range(CHUNK)]] + [[0.0] * CHUNK] * (len(vowel) - 1)
    return {"hums": vowel, "clicks": click}


Listen = Callable[[httpx.Client, list[float], Any], tuple[float, Any]]


def listen_python(client: httpx.Client, chunk: list[float], state: Any) -> tuple[float, Any]:
    answer = client.post("/predictions/silero_vad", json={"audio": chunk, "state": state})
    assert answer.status_code == 200, answer.text
    return answer.json()["speech"][0], answer.json()["state"]


def listen_onnx(client: httpx.Client, chunk: list[float], state: Any) -> tuple[float, Any]:
    context, memory = state or ([0.0] * CONTEXT, [[[0.0] * 128]] * 2)
    inputs = {"input": [context + chunk], "state": memory, "sr": 16_000}
    answer = client.post("/predictions/silero_vad_onnx", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["predictions"]
    return outputs["output"][0][0], (chunk[-CONTEXT:], outputs["stateN"])


def listen_reset(client: httpx.Client, chunk: list[float], state: Any) -> tuple[float, Any]:
    answer = client.post("/predictions/silero_vad_jit", json={"inputs": {"x": [chunk]}})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0][0], state


def hear(
    client: httpx.Client, listen: Listen, chunks: list[list[float]], *, forget: bool = False
) -> list[float]:
    """Send chunks one after another, with the state of the answer before."""
    state, heard = None, []
    for chunk in chunks:
        speech, state = listen(client, chunk, None if forget else state)
        heard.append(speech)
    return heard


each_detector = pytest.mark.parametrize("listen", [listen_python, listen_onnx, listen_reset])


@each_detector
def test_interleaved_clients_get_the_answers_they_get_alone(client: httpx.Client, listen: Listen) -> None:
    clips = sounds()
    alone = {name: hear(client, listen, chunks) for name, chunks in clips.items()}
    states: dict[str, Any] = dict.fromkeys(clips)
    taken_turns: dict[str, list[float]] = {name: [] for name in clips}
    for step, name in itertools.product(range(len(clips["hums"])), clips):
        speech, states[name] = listen(client, clips[name][step], states[name])
        taken_turns[name].append(speech)
    assert differences(taken_turns, alone, 1e-5) == []


@each_detector
def test_clients_at_the_same_time_get_the_answers_they_get_alone(
    client: httpx.Client, listen: Listen
) -> None:
    clips = sounds()
    alone = {name: hear(client, listen, chunks) for name, chunks in clips.items()}
    with ThreadPoolExecutor(6) as clients:
        names = list(clips) * 3
        together = list(clients.map(lambda name: hear(client, listen, clips[name]), names))
    for name, heard in zip(names, together, strict=True):
        assert differences(heard, alone[name], 1e-5) == []


@pytest.mark.parametrize("listen", [listen_python, listen_onnx])
def test_the_state_changes_what_is_heard(client: httpx.Client, listen: Listen) -> None:
    chunks = sounds()["hums"]
    assert differences(hear(client, listen, chunks), hear(client, listen, chunks, forget=True), 0.05) != []


def test_reset_makes_every_chunk_the_first(client: httpx.Client) -> None:
    chunks = sounds()["hums"]
    fresh = hear(client, listen_python, chunks, forget=True)
    assert differences(hear(client, listen_reset, chunks), fresh, 1e-5) == []


def test_three_ways_to_serve_one_detector_agree(client: httpx.Client) -> None:
    chunks = sounds()["hums"]
    by_python = hear(client, listen_python, chunks)
    assert differences(hear(client, listen_onnx, chunks), by_python, 1e-4) == []


def test_the_two_programs_of_one_encoder_agree(client: httpx.Client) -> None:
    traced, exported = (
        send(client, next(case for case in CASES if case["model"] == name))
        for name in ("minilm", "minilm_export")
    )
    assert differences(traced, exported, 1e-5) == []

"""Models are registered, and served from the start, from the web, S3, a hub and a plugin's source."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from frame.testing import Server, run_server
from moto.server import ThreadedMotoServer

from tests import hf_models
from tests.process.file_site import FileSite, file_site
from tests.process.load_models import WILLING
from tests.process.probes import DEADLINE, ask, descendants, put_model, until

pytestmark = pytest.mark.slow(120)
ARCHIVE = "/models/remote.zip"


def archive(**files: str) -> bytes:
    """Return a zip with the files of a model."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("__", "."), text)
    return memory.getvalue()


def model_archive(answer: str = "") -> bytes:
    """Return a model that answers."""
    text = WILLING.replace('"batch": size', f'"batch": size, "which": "{answer}"')
    return archive(model__py=text, serving__properties="minWorkers=1\nmaxWorkers=1\n")


@pytest.fixture
def site() -> Iterator[FileSite]:
    """Serve an archive of a model."""
    with file_site(files={ARCHIVE: model_archive()}) as site:
        yield site


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which private addresses are sources, with a cache of its own."""
    return {"SERVING_ALLOW_PRIVATE_SOURCES": "true", "SERVING_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return an empty store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def register(server: Server, url: str, **query: str) -> httpx.Response:
    """Register a model by its url."""
    return httpx.post(f"{server.url}/models", params={"url": url, **query}, timeout=2 * DEADLINE)


def shown(server: Server, model: str) -> tuple[str, str]:
    """Return a model's status, and why."""
    answer = httpx.get(f"{server.url}/models/{model}", timeout=DEADLINE)
    if answer.status_code == 404:
        return "", ""
    (found,) = answer.json()[0]["models"]
    return found["status"], found.get("reason", "")


def test_an_archive_of_the_web_is_registered_and_a_changed_one_anew(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    with run_server(store, environ=environ) as server:
        answer = register(server, f"{site.url}{ARCHIVE}", model_version="1")
        assert (answer.status_code, answer.json()["status"]) == (200, 'Model "remote" registered.')
        assert ask(server, "remote", token="x").json()["which"] == ""
        site.files[ARCHIVE] = model_archive("new")
        assert register(server, f"{site.url}{ARCHIVE}", model_version="2").status_code == 200
        assert ask(server, "remote", token="x").json()["which"] == "new"
        assert "model_download_done" in server.log()


def test_a_download_is_shown_pending_and_ends_when_the_model_is_unregistered(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    with run_server(store, environ=environ) as server:
        site.stalls = True
        answer = register(server, f"{site.url}{ARCHIVE}", synchronous="false")
        assert (answer.status_code, answer.json()["status"]) == (
            202, 'Model "remote" registration scheduled.',
        )  # fmt: skip
        until(lambda: site.fetched)
        assert shown(server, "remote")[0] == "PENDING"
        assert "downloaded" in shown(server, "remote")[1]
        refused = ask(server, "remote", token="x")
        assert (refused.status_code, refused.json()["type"]) == (503, "ModelNotReadyError")
        assert register(server, f"{site.url}{ARCHIVE}").status_code == 409
        assert httpx.delete(f"{server.url}/models/remote", timeout=DEADLINE).status_code == 200
        assert shown(server, "remote") == ("", "")
        assert register(server, f"{site.url}{ARCHIVE}", synchronous="false").status_code == 202
        until(lambda: len(_downloads(server)) == 1)
        assert shown(server, "remote")[0] == "PENDING"  # the end of the first is not that of the second
        assert httpx.delete(f"{server.url}/models/remote", timeout=DEADLINE).status_code == 200
        until(lambda: not _downloads(server))
        site.stalls = False
        assert register(server, f"{site.url}{ARCHIVE}").status_code == 200


def _downloads(server: Server) -> list[int]:
    """Return the download processes of a server."""
    return [pid for pid in descendants(server.pid) if "frame.store.download" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_server_that_ends_takes_its_downloads_along(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    site.stalls = True
    with run_server(store, environ=environ) as server:
        assert register(server, f"{site.url}{ARCHIVE}", synchronous="false").status_code == 202
        pids = until(lambda: _downloads(server))
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE
    assert not any(_command(pid) for pid in pids)


def test_a_download_that_takes_too_long_says_so_and_is_forgotten_or_failed(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    site.stalls = True
    with run_server(store, environ={**environ, "SERVING_MODEL_DOWNLOAD_TIMEOUT": "1"}) as server:
        answer = register(server, f"{site.url}{ARCHIVE}")
        assert answer.status_code == 400
        assert "not downloaded within 1 s (model_download_timeout)" in answer.json()["message"]
        assert shown(server, "remote") == ("", "")
        assert register(server, f"{site.url}{ARCHIVE}", synchronous="false").status_code == 202
        until(lambda: shown(server, "remote")[0] == "FAILED")
        assert "not downloaded within 1 s" in shown(server, "remote")[1]
        site.stalls = False
        assert register(server, f"{site.url}{ARCHIVE}").status_code == 200
        assert shown(server, "remote")[0] == "Healthy"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/m.zip", "loopback, link-local or private"),
        ("http://169.254.169.254/latest/meta-data/m.zip", "169.254.169.254"),
        ("http://user:secret@models.example/m.zip", "has a user and a password"),
        ("gs://bucket/m.zip", "no source has the scheme gs:"),
        ("http://models.example/m.zip#md5=1", "expected #sha256="),
    ],
)
def test_urls_that_are_not_allowed_say_why(store: Path, url: str, said: str, tmp_path: Path) -> None:
    with run_server(store, environ={"SERVING_CACHE_DIR": str(tmp_path / "cache")}) as server:
        answer = register(server, url)
        assert answer.status_code == 400
        assert said in answer.json()["message"]
        assert shown(server, "m") == ("", "")


def test_what_is_no_archive_or_leaves_its_folder_is_refused(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as made:
        made.writestr("../../outside.py", "")
    site.files |= {"/bad.zip": b"no archive", "/evil.zip": memory.getvalue()}
    with run_server(store, environ=environ) as server:
        for name in ("bad", "evil"):
            assert register(server, f"{site.url}/{name}.zip").status_code == 400
            assert shown(server, name) == ("", "")
    assert not list(store.parent.rglob("outside.py"))


def test_a_model_of_the_web_is_served_from_the_start(
    site: FileSite, store: Path, environ: dict[str, str]
) -> None:
    del environ["SERVING_ALLOW_PRIVATE_SOURCES"]  # whoever starts the server may name any address
    with run_server(None, ["-m", f"first={site.url}{ARCHIVE}"], environ=environ) as server:
        assert ask(server, "first", token="x").status_code == 200


def test_what_was_registered_from_the_web_is_there_after_a_restart(
    site: FileSite, store: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["SERVING_MODEL_SNAPSHOT"] = str(tmp_path / "snapshot.json")
    with run_server(store, environ=environ) as server:
        assert register(server, f"{site.url}{ARCHIVE}", model_name="kept").status_code == 200
    count = len(site.fetched)
    with run_server(store, environ=environ) as server:
        until(lambda: shown(server, "kept")[0] == "Healthy")
        assert ask(server, "kept", token="x").status_code == 200
    assert len(site.fetched) == count  # it was in the cache


# --- S3 ----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a bucket of an S3 server of this machine."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    environ |= given
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    made = boto3.resource("s3").create_bucket(Bucket="models")
    yield made
    moto.stop()


def test_models_of_s3_are_registered_as_archives_files_and_folders(
    bucket: object, store: Path, environ: dict[str, str]
) -> None:
    put = boto3.client("s3").put_object
    put(Bucket="models", Key="one/remote.zip", Body=model_archive("zip"))
    for name, text in (("model.py", WILLING), ("serving.properties", "minWorkers=1\nmaxWorkers=1\n")):
        put(Bucket="models", Key=f"two/folder/{name}", Body=text.encode())
    with run_server(store, environ=environ) as server:
        for url, name in (("s3://models/one/remote.zip", "remote"), ("s3://models/two/folder/", "folder")):
            assert register(server, url).status_code == 200, url
            assert ask(server, name, token="x").status_code == 200
        put(Bucket="models", Key="one/remote.zip", Body=model_archive("changed"))
        assert register(server, "s3://models/one/remote.zip", model_version="2").status_code == 200
        assert ask(server, "remote", token="x").json()["which"] == "changed"
        for url in ("s3://models/none", "s3://nowhere/m.zip"):
            answer = register(server, url)
            assert answer.status_code == 400
            assert url.removesuffix("/m.zip") in answer.json()["message"]
        assert "testing-secret" not in server.log()


# --- hubs --------------------------------------------------------------------------------------------


def hub_of(site: FileSite, files: dict[str, bytes], commit: str = "c" * 40) -> None:
    """Make a site a hub with one repository."""
    siblings = [
        {"rfilename": name, "size": len(body), "blobId": f"{index:040x}"}
        for index, (name, body) in enumerate(files.items())
    ]
    facts = {"_id": "1", "id": "some/model", "sha": commit, "siblings": siblings}
    for revision in ("main", commit):
        site.files[f"/api/models/some/model/revision/{revision}?blobs=true"] = json.dumps(facts).encode()
    site.files |= {f"/some/model/resolve/{commit}/{name}": body for name, body in files.items()}


def test_a_repository_of_a_hub_is_registered_without_its_other_formats(
    store: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    files = {
        "model.py": WILLING.encode(), "serving.properties": b"minWorkers=1\nmaxWorkers=1\n",
        "model.safetensors": b"x", "pytorch_model.bin": b"y", ".gitattributes": b"z",
    }  # fmt: skip
    environ |= {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret_of_this_test", "HF_HUB_OFFLINE": "0"}
    with file_site() as hub:
        hub_of(hub, files)
        environ["HF_ENDPOINT"] = hub.url
        with run_server(store, environ=environ) as server:
            answer = register(server, "hf://some/model@main")
            assert answer.status_code == 200, answer.text
            assert ask(server, "model", token="x").status_code == 200
            log = server.log()
        asked = [path for path, _, _ in hub.asked]
        assert not [path for path in asked if path.endswith((".bin", ".gitattributes"))]
        given = [headers for path, _, headers in hub.asked if path.endswith("model.safetensors")]
        assert {headers.get("authorization") for headers in given} == {"Bearer hf_secret_of_this_test"}
        assert "hf_secret" not in log


def test_a_cached_repository_stands_in_for_a_hub_out_of_reach(
    store: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    commit = "d" * 40
    repository = tmp_path / "hf" / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.py").write_text(WILLING)
    (snapshot / "serving.properties").write_text("minWorkers=1\nmaxWorkers=1\n")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environ |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    with run_server(store, environ=environ) as server:
        answer = register(server, "hf://some/model")
        assert answer.status_code == 200, answer.text
        assert ask(server, "model", token="x").status_code == 200
        missing = register(server, "hf://some/other")
        assert missing.status_code == 400
        assert "is not cached here" in missing.json()["message"]


LISTING = """
import os

from djl_python import Output

names = []


def handle(inputs):
    if inputs.is_empty():
        names.extend(sorted(os.listdir(inputs.get_properties()["model_id"])))
        return None
    return Output().add_as_json(names)
"""


@pytest.mark.parametrize("is_hub", [True, False])
def test_weights_that_a_model_names_are_downloaded_for_it(
    bucket: object, store: Path, environ: dict[str, str], tmp_path: Path, is_hub: bool
) -> None:
    environ |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    for name in ("config.json", "model.safetensors"):
        boto3.client("s3").put_object(Bucket="models", Key=f"weights/{name}", Body=b"x")
    with file_site() as hub:
        hub_of(hub, {"config.json": b"{}", "model.safetensors": b"x"})
        environ["HF_ENDPOINT"] = hub.url
        weights = "some/model" if is_hub else "s3://models/weights/"
        put_model(store / "m", LISTING, minWorkers=1, option__model_id=weights)
        with run_server(store, environ=environ) as server:
            assert ask(server, "m").json() == ["config.json", "model.safetensors"]
            (found,) = httpx.get(f"{server.url}/models/m", timeout=DEADLINE).json()[0]["models"]
            setting = found["settings"]["option.model_id"]
    assert f"({weights}, downloaded)" in setting["source"]


def test_a_variable_names_a_model_of_a_hub(store: Path, environ: dict[str, str], tmp_path: Path) -> None:
    folder = hf_models.make_bert(tmp_path / "weights")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    environ |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_MODEL_ID": "some/model"}
    environ |= {"HF_TASK": "text-classification", "HF_REVISION": "main", "SERVING_MAX_WORKERS": "1"}
    with file_site() as hub:
        hub_of(hub, files)
        environ["HF_ENDPOINT"] = hub.url
        with run_server(store, environ=environ) as server:
            url = f"{server.url}/predictions/model"
            answer = httpx.post(url, json={"inputs": "a word"}, timeout=DEADLINE)
            assert answer.status_code == 200, answer.text
            assert set(answer.json()[0]) == {"label", "score"}
            assert "m" not in httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()
    environ |= {"HF_MODEL_ID": str(put_model(tmp_path / "own", LISTING.replace("names.extend", "str")))}
    with run_server(store, environ=environ) as server:
        assert "own" in httpx.get(f"{server.url}/ping", timeout=DEADLINE).json()


def test_downloads_see_no_management_token(site: FileSite, store: Path, environ: dict[str, str]) -> None:
    environ["FRAME_MANAGEMENT_TOKEN"] = token = "a-token-of-this-test-0123"
    site.stalls = True
    with run_server(store, environ=environ) as server:
        headers = {"authorization": f"Bearer {token}"}
        query = {"url": f"{site.url}{ARCHIVE}", "synchronous": "false"}
        assert httpx.post(f"{server.url}/models", params=query, headers=headers).status_code == 202
        (pid, *_) = until(lambda: _downloads(server))
        assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()

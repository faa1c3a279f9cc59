"""Every code block of the pages is run, page by page, as a reader would run it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from frame.api import RemoteModel
from moto.server import ThreadedMotoServer
from onnx import TensorProto, helper

from tests import hf_models
from tests.docs.pages import DOCS, fences
from tests.docs.stage import Stage
from tests.process.file_site import file_site
from tests.process.probes import until

pytestmark = pytest.mark.slow(300)
ANSWERING = """
from djl_python import Output


def handle(inputs):
    return None if inputs.is_empty() else Output().add_as_json({answer})
"""


def put_onnx(folder: Path, *, name: str = "model.onnx", **inputs: int) -> Path:
    """Save a model that adds up its inputs, two-dimensional and of these ONNX types, as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    casts = [helper.make_node("Cast", [each], [f"{each}_f"], to=TensorProto.FLOAT) for each in inputs]
    total = helper.make_node("Sum", [f"{each}_f" for each in inputs], ["y"])
    graph = helper.make_graph(
        [*casts, total],
        "g",
        [helper.make_tensor_value_info(each, dtype, ["n", "s"]) for each, dtype in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "s"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / name)
    return folder


def put_resnet(store: Path) -> Path:
    """Save what the pages call resnet."""
    return put_onnx(store / "resnet", name="resnet.onnx", x=TensorProto.FLOAT)


def put_echo(folder: Path) -> None:
    """Save a model that answers with what it gets."""
    folder.mkdir(parents=True)
    (folder / "serving.properties").write_text("engine=echo\n")


def predict(stage: Stage, model: str, body: object) -> object:
    """Return what a model answers."""
    answer = httpx.post(f"{stage.url}/predictions/{model}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def index(stage: Stage) -> None:
    """Start here."""
    put_resnet(stage.folder / "model_store")
    stage.run()
    assert json.loads(stage.run()) == {"predictions": [[1.0, 2.0]]}
    said = stage.run()
    assert "resnet" in said
    assert "torchscript" in said


def configuration(stage: Stage) -> None:
    store = stage.folder / "model_store"
    put_resnet(store)
    put_onnx(store / "bert", input_ids=TensorProto.INT64, attention_mask=TensorProto.INT64)
    said = stage.run()
    assert '"name": "bert"' in said
    (store / "resnet" / "serving.properties").write_text(stage.block("properties"))
    (store / "bert" / "serving.properties").write_text(stage.block("properties"))
    (stage.folder / "config.properties").write_text(stage.block("properties"))
    stage.run()
    assert "address=http://127.0.0.1" in stage.shell("cat server.log")


def http_api(stage: Stage) -> None:
    store = stage.folder / "model_store"
    put_onnx(store / "encoder", ids=TensorProto.INT64, mask=TensorProto.INT64)
    put_onnx(stage.folder / "m", x=TensorProto.FLOAT)
    (stage.folder / "models").mkdir()
    stage.replace("url=/models/", f"url={stage.folder}/models/")
    shutil.make_archive(str(stage.folder / "models" / "resnet"), "zip", put_resnet(stage.folder / "made"))
    stage.shell("frame serve model_store/")
    listed = httpx.get(f"{stage.url}/models", timeout=20).json()
    stage.register("m", "1", stage.folder / "m")
    stage.register("resnet", "1", stage.folder / "made" / "resnet")
    assert json.loads(stage.run().partition("\n]")[2]) == {"predictions": [[102.0, 7593.0, 103.0]]}
    assert '{"predictions":[1.0]}' in stage.run()
    nobody = httpx.post(f"{stage.url}/predictions/nobody", timeout=20)
    assert nobody.json() == json.loads(stage.block("json"))
    assert listed == json.loads(stage.block("json"))
    stage.replace("explain encoder", f"explain encoder --url {stage.url}")
    assert stage.run().count("encoder") >= 2
    stage.run()
    assert [httpx.get(f"{stage.url}/models/resnet/{number}").status_code for number in (1, 2)] == [404, 200]


def versions(stage: Stage) -> None:
    (stage.folder / "models").mkdir()
    (stage.folder / "model_store").mkdir()
    made = put_resnet(stage.folder / "made")
    stage.replace("url=/models/", f"url={stage.folder}/models/")
    shutil.make_archive(str(stage.folder / "models" / "resnet2"), "zip", made)
    stage.shell("frame serve model_store/")
    stage.register("resnet", "1", made)
    stage.run()
    stage.register("resnet", "1", made)
    assert "95.0" in stage.run()
    assert "shadow" in stage.run()


def large_models(stage: Stage) -> None:
    stage.run()  # it is installed: pip says so
    hf_models.make_gptj(stage.file("properties").parent / "weights", n_head=16, n_embd=128, rotary_dim=4)
    stage.shell("frame serve model_store/")
    assert isinstance(json.loads(stage.run())["generated_text"], str)
    hosts = stage.block("properties")
    (stage.folder / "model_store" / "gptj" / "serving.properties").write_text(
        f"engine=DeepSpeed\noption.model_id=weights\n{hosts}"
    )
    assert "10.0.0.2" in stage.shell("frame check model_store/ --json")


def operations(stage: Stage) -> None:
    put_echo(stage.folder / "model_store" / "m")
    stage.run()
    assert httpx.get(f"{stage.url_of('8081')}/models", timeout=20).status_code == 200
    for block in (stage.block("properties"), stage.block("properties")):
        (stage.folder / "config.properties").write_text(block)
        stage.shell("frame check model_store/ -f config.properties")


def simulator(stage: Stage) -> None:
    put_onnx(stage.folder / "model_store" / "mlp", x=TensorProto.FLOAT)
    (stage.folder / "request.json").write_text('{"inputs": [[1, 2]]}')
    assert "answers/s" in stage.run()
    for _ in range(2):
        said, printed = stage.console()
        rows = [line.split() for line in said.splitlines()]
        promised = [line for line in printed.splitlines() if line != "…" and not line.startswith("simulated")]
        assert [line for line in promised if line.split() not in rows] == [], said


def sources(stage: Stage) -> None:
    made = put_resnet(stage.folder / "made")
    archive = Path(shutil.make_archive(str(stage.folder / "resnet"), "zip", made))
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        stage.shell(f"export {name}={value}")
    upload = "c.upload_file('made/resnet/resnet.onnx', 'models', 'resnet/model.onnx')"
    stage.shell(
        f"""python -c "import boto3; c = boto3.client('s3'); c.create_bucket(Bucket='models'); {upload}" """
    )
    try:
        with file_site() as site:
            site.files["/resnet.zip"] = archive.read_bytes()
            stage.replace("https://models.example", site.url)
            stage.replace("model_name=resnet", "model_name=another")  # the first line took the name
            stage.run()
            body = {"inputs": [[1, 2]]}
            until(lambda: httpx.post(f"{stage.url}/predictions/another", json=body).status_code == 200)
    finally:
        moto.stop()
    names = stage.python()
    assert names["frame_model_sources"]()[0].schemes == ("ftp",)
    exec(compile(stage.block("python"), "block", "exec"), names)  # our own pages
    assert issubclass(names["FtpModel"], RemoteModel)


def design(stage: Stage) -> None:
    assert [spec.name for spec in stage.python()["frame_engines"]()] == ["mine"]


def workflows(stage: Stage) -> None:
    folder = stage.folder / "model_store" / "review"
    for name, answer in (("sentiment", "{'score': [0.5]}"), ("topic", "{'topic': [2]}")):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.py").write_text(ANSWERING.format(answer=answer))
    (folder / "workflow.yml").write_text(stage.block("yaml"))
    (folder / "steps.py").write_text(stage.block("python"))
    stage.shell("frame serve model_store/")
    assert predict(stage, "review", {"text": "hello"}) == {"text": "hello", "sentiment": 0.5, "topic": 2}


def writing_a_model(stage: Stage) -> None:
    stage.file("python")
    assert stage.run().split()[-1] == "HELLO"
    for name, body in (("scale", {"numbers": [1]}), ("lengths", {}), ("checked", {}), ("count", {"last": 1})):
        handler = stage.file("python")
        assert handler.parent.name == name
        if name in {"scale", "lengths"}:
            (handler.parent / "serving.properties").write_text(stage.block("properties"))
        stage.register(name, "1", handler.parent)
        httpx.post(f"{stage.url}/predictions/{name}", json=body, timeout=60).raise_for_status()
    stage.replace("/opt/envs/old/bin/python", sys.executable)
    folder = stage.folder / "model_store" / "mymodel"
    shutil.copytree(stage.folder / "model_store" / "lengths", folder)
    (folder / "serving.properties").write_text(stage.block("properties"))
    for name in ("request.json", "a.json", "b.json"):
        (stage.folder / name).write_text("{}")
    np.savez(stage.folder / "other.npz", x=np.ones(3))
    assert "batches of 2" in stage.run()


def text_models(stage: Stage) -> None:
    stage.replace("=/models/", f"={stage.folder}/models/")
    hf_models.make_llama(stage.folder / "models" / "smollm2", max_position_embeddings=2048)
    stage.file("properties")
    stage.run()
    assert isinstance(json.loads(stage.run())["generated_text"], str)


RUNS: dict[str, Callable[[Stage], None]] = {
    "configuration": configuration,
    "design": design,
    "http-api": http_api,
    "index": index,
    "large-models": large_models,
    "operations": operations,
    "simulator": simulator,
    "sources": sources,
    "text-models": text_models,
    "versions": versions,
    "workflows": workflows,
    "writing-a-model": writing_a_model,
}
ELSEWHERE = {"writing-an-engine": "tests/packaging/test_writing_an_engine.py"}
"""Its blocks need an environment of their own."""


@pytest.mark.parametrize("name", RUNS)
def test_each_block_of_a_page_runs(name: str, tmp_path: Path) -> None:
    stage = Stage(name, tmp_path)
    try:
        RUNS[name](stage)
        assert stage.rest() == []
    finally:
        stage.close()


def test_each_page_with_code_is_run() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    with_code = {name for name in pages if any(fence.language not in {"", "text"} for fence in fences(name))}
    assert with_code == RUNS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("path", sorted(DOCS.glob("**/*.md")), ids=lambda path: path.stem)
def test_blocks_without_code_hold_no_commands(path: Path) -> None:
    for fence in fences(str(path.relative_to(DOCS).with_suffix(""))):
        if fence.language in {"", "text"}:
            assert not re.search(r"^(\$|curl|frame|pip|python) ", fence.text, re.MULTILINE), fence

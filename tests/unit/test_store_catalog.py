"""The catalog: which models a server serves, by which engine, and what is said of those it refuses."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from frame.api import Claim, EngineSpec, option
from frame.config.files import load_server_config
from frame.store.catalog import build_catalog, model_reader, models_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    intra_op_num_threads: int = option(1, "Threads.", aliases=("intraOpNumThreads",), minimum=1)


def claim_handler(spec, listing):
    for name in (f"{listing.name}.py", "model.py"):
        if listing.matching(name):
            return Claim(strength=100, model_file=name, reason=f"found {name}")
    if "option.model_id" in listing.properties:
        return Claim(strength=10, model_file=None, reason="option.model_id is set")
    return None


def claim_saved_model(spec, listing):
    found = [*listing.matching("saved_model.pb"), *listing.matching("*/saved_model.pb")]
    return Claim(strength=50, model_file=found[0], reason=f"found {found[0]}") if found else None


ONNX = EngineSpec(
    name="onnx", api=(1, 1), target="x:X", aliases=("OnnxRuntime",), claims=("*.onnx",), options=OnnxOptions
)
TORCH = EngineSpec(name="torchscript", api=(1, 1), target="x:X", aliases=("PyTorch",), claims=("*.pt",))
TF = EngineSpec(name="tf", api=(1, 1), target="x:X", detect=claim_saved_model)
PYTHON = EngineSpec(name="python", api=(1, 1), target="x:X", detect=claim_handler, open_options=True)
ENGINES = (ONNX, TORCH, TF, PYTHON)


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def build(tmp_path, store):
    def run(*models, engines=ENGINES, environ=None, lenient=False, flags=None, file=""):
        config_file = tmp_path / "config.properties"
        config_file.write_text(f"model_store={store}\n{file}")
        variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), **(environ or {})}
        config = load_server_config(str(config_file), flags or {}, variables)
        return build_catalog(config, models, engines, variables, lenient=lenient)

    return run


def put(folder, name, text=""):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def served(catalog):
    return {(entry.name, entry.version): entry.config.engine for entry in catalog.entries if entry.config}


def test_every_folder_and_archive_of_a_store_is_a_model(store, build):
    put(store, "mlp/mlp.onnx")
    put(store, "net/model.pt")
    put(store, "bert/1/saved_model.pb")
    put(store, "bert/1/variables/x")
    put(store, "echo/model.py")
    with zipfile.ZipFile(store / "packed.zip", "w") as archive:
        archive.writestr("inner/packed.onnx", "x")
    with tarfile.open(store / "gpt-j.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("model.py"), io.BytesIO())
    catalog = build()
    assert served(catalog) == {
        ("bert", None): "tf",
        ("echo", None): "python",
        ("gpt_j", None): "python",
        ("mlp", None): "onnx",
        ("net", None): "torchscript",
        ("packed", None): "onnx",
    }
    assert (catalog.warnings, catalog.problems) == ((), ())
    by_name = {entry.name: entry for entry in catalog.entries}
    assert by_name["mlp"].reason == "found mlp.onnx"
    assert by_name["mlp"].config.model_file == "mlp.onnx"
    assert by_name["mlp"].config.path == str(store / "mlp")
    assert by_name["bert"].config.path == str(store / "bert" / "1")
    assert by_name["packed"].config.path.endswith("/inner")


def test_wrong_model_is_refused_with_its_problems_and_the_others_are_served(store, build):
    put(store, "good/good.onnx")
    put(store, "wrong/wrong.onnx")
    put(store, "wrong/serving.properties", "batch_size=x\noption.intra_op_threads=2\n")
    catalog = build()
    assert served(catalog) == {("good", None): "onnx"}
    wrong = catalog.entries[1]
    assert (wrong.name, wrong.config, wrong.reason) == ("wrong", None, "found wrong.onnx")
    assert wrong.problems == (
        "batch_size (serving.properties:1): 'x' is not a whole number >= 1",
        "option.intra_op_threads (serving.properties:2): unknown; did you mean option.intra_op_num_threads?",
    )


def test_malformed_properties_file_is_the_models_problem(store, build):
    put(store, "m/m.onnx")
    put(store, "m/serving.properties", "a=1\nb=\\u1\n")
    (problem,) = build().entries[0].problems
    assert problem.startswith("serving.properties:2: ")


def test_engine_of_the_file_wins_over_detection_and_keeps_the_claimed_file(store, build):
    put(store, "m/model.py")
    put(store, "m/net.onnx")
    put(store, "m/serving.properties", "engine=OnnxRuntime")
    (entry,) = build().entries
    assert (entry.config.engine, entry.config.model_file) == ("onnx", "net.onnx")
    assert entry.config.sources["engine"].where == "serving.properties:1"


def test_named_engine_without_a_claim_says_where_it_was_named(store, build):
    put(store, "m/notes.txt")
    put(store, "m/serving.properties", "engine=Python\noption.entryPoint=my.module")
    (entry,) = build().entries
    assert entry.reason == "engine= at serving.properties:1"
    assert entry.config.properties == {"entryPoint": "my.module"}


def test_model_name_option_chooses_the_file(store, build):
    put(store, "m/a.onnx")
    put(store, "m/b.onnx")
    put(store, "m/serving.properties", "option.modelName=b")
    assert build().entries[0].config.model_file == "b.onnx"


def test_detection_sees_options_of_the_environment(store, build):
    put(store, "m/weights.bin")
    assert served(build(environ={"OPTION_MODEL_ID": "gpt2"})) == {("m", None): "python"}
    assert build().entries[0].config is None


def test_tie_between_engines_is_the_models_problem(store, build):
    put(store, "m/a.onnx")
    put(store, "m/a.pt")
    (problem,) = build().entries[0].problems
    assert "add engine=onnx or engine=torchscript to serving.properties" in problem


def test_store_that_is_itself_a_model_is_served_under_its_own_name(store, build):
    put(store, "model.py")
    put(store, "lib/code.py")
    catalog = build()
    assert served(catalog) == {("store", None): "python"}
    assert catalog.entries[0].config.path == str(store)


def test_store_of_settings_alone_is_a_model(store, build):
    put(store, "serving.properties", "engine=Python\noption.model_id=gpt2")
    put(store, "weights/x.bin")
    assert served(build()) == {("store", None): "python"}


def test_files_beside_models_are_a_warning(store, build):
    put(store, "README.md")
    put(store, "m/m.onnx")
    catalog = build()
    assert served(catalog) == {("m", None): "onnx"}
    (warning,) = catalog.warnings
    assert warning.startswith("model_store (")
    assert warning.endswith("config.properties:1): files beside the models are not served: README.md")


def test_store_with_files_that_nobody_claims_is_one_refused_model(store, build):
    put(store, "notes.txt")
    (entry,) = build().entries
    assert "recognises the files of the model: notes.txt" in entry.problems[0]


@pytest.mark.parametrize(
    ("file", "flags", "warning"),
    [
        ("", {}, "has no models in it"),
        ("", {"model_store": "/nowhere"}, "model_store (--model-store): /nowhere is no folder"),
        ("", {"model_store": ""}, "no models: name a store or give -m NAME=PATH"),
        ("load_models=all", {}, "has no models in it"),
    ],
)
def test_empty_start_is_a_warning(build, file, flags, warning):
    catalog = build(file=file, flags=flags)
    assert catalog.entries == ()
    assert warning in catalog.warnings[0]


def test_none_serves_nothing(store, build):
    put(store, "m/m.onnx")
    assert build(file="load_models=NONE") == build(file="load_models=none")
    assert build(file="load_models=NONE").entries == ()


def test_listed_models_are_served_and_no_others(store, build):
    for name in ("a", "b", "c"):
        put(store, f"{name}/model.onnx")
    assert served(build(file="load_models=a, other:v2=b")) == {("a", None): "onnx", ("other", "v2"): "onnx"}


def test_flag_replaces_the_list_and_adds_to_a_store_that_was_typed(store, build, tmp_path):
    put(store, "a/a.onnx")
    extra = put(tmp_path, "extra/net.pt").parent
    assert served(build(f"x={extra}")) == {("x", None): "torchscript"}
    assert served(build(f"x={extra}", file="load_models=a")) == {("x", None): "torchscript"}
    typed = build(f"x={extra}", flags={"model_store": str(store)})
    assert served(typed) == {("a", None): "onnx", ("x", None): "torchscript"}


def test_versions_stand_side_by_side(store, build, tmp_path):
    put(store, "mlp/mlp.onnx")
    second = put(tmp_path, "second/mlp.onnx").parent
    catalog = build(f"mlp:v2={second}", flags={"model_store": str(store)})
    assert served(catalog) == {("mlp", None): "onnx", ("mlp", "v2"): "onnx"}
    assert catalog.entries[1].config.version == "v2"


def test_second_model_of_a_name_is_a_problem_and_the_first_is_served(store, build):
    put(store, "a-b/m.onnx")
    put(store, "a_b/m.onnx")
    catalog = build()
    assert [entry.url for entry in catalog.entries] == [str(store / "a-b")]
    (problem,) = catalog.problems
    assert problem.startswith(f"{store / 'a_b'}: there is a model a_b already, from {store / 'a-b'}; ")
    assert problem.endswith("NAME:VERSION=PATH")
    versioned = build(f"m:1={store / 'a-b'}", f"m:1={store / 'a_b'}")
    assert "a model m:1 already" in versioned.problems[0]


def test_same_entry_twice_is_one_model(store, build):
    put(store, "a/a.onnx")
    catalog = build("a", "a")
    assert (len(catalog.entries), catalog.problems) == (1, ())


def test_endpoint_fields_and_query_win_over_the_file(store, build):
    put(store, "m/m.onnx")
    put(store, "m/serving.properties", "batch_size=2\nengine=Python\nload_on_devices=cpu")
    (entry,) = build("m::onnx:0;1=m?batch_size=8&width=32").entries
    assert (entry.config.engine, entry.config.batch_size) == ("onnx", 8)
    assert entry.config.load_on_devices == ("gpu0", "gpu1")
    assert entry.config.properties == {"width": "32"}
    assert entry.config.sources["batch_size"].kind == "flag"
    assert entry.config.sources["batch_size"].where.startswith("-m m::onnx")


def test_single_file_is_a_model_without_its_neighbours(tmp_path, build):
    file = put(tmp_path, "files/net.v1.onnx")
    put(tmp_path, "files/other.pt")
    put(tmp_path, "files/serving.properties", "batch_size=9")
    (entry,) = build(f"net={file}").entries
    assert (entry.config.path, entry.config.model_file) == (str(file.parent), "net.v1.onnx")
    assert entry.config.batch_size == 1


def test_single_file_with_a_named_engine_is_its_model_file(tmp_path, build):
    file = put(tmp_path, "weights.bin")
    (entry,) = build(f"net::python={file}").entries
    assert (entry.config.engine, entry.config.model_file) == ("python", "weights.bin")


def test_relative_path_is_looked_up_here_and_bare_name_in_the_store(store, build, tmp_path, monkeypatch):
    put(store, "m/m.onnx")
    put(tmp_path, "m/m.pt")
    put(store, "sub/only_in_store/m.onnx")
    monkeypatch.chdir(tmp_path)
    assert served(build("m")) == {("m", None): "onnx"}
    assert served(build("./m")) == {("m", None): "torchscript"}
    assert served(build("sub/only_in_store")) == {("only_in_store", None): "onnx"}
    assert build("nothing").entries[0].problems == (
        f"{tmp_path / 'nothing'}: there is no such file or folder",
    )


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("x=s3://bucket/m", "no source has the scheme s3:"),
        ("x=/nowhere/m", "there is no such file or folder"),
    ],
)
def test_model_that_cannot_be_read_is_refused_by_name(build, model, problem):
    (entry,) = build(model).entries
    assert (entry.name, entry.config) == ("x", None)
    assert problem in entry.problems[0]


def test_malformed_entry_is_a_problem_of_the_list(build, store):
    put(store, "m/m.onnx")
    catalog = build("a b=x", "m")
    assert served(catalog) == {("m", None): "onnx"}
    assert catalog.problems == ("-m: a b=x: 'a b' is no name; letters, digits, _, . and - are allowed",)


def test_broken_archive_is_the_models_problem(store, build):
    put(store, "bad.zip", "hello")
    (entry,) = build().entries
    assert (entry.name, entry.config) == ("bad", None)
    assert "broken or not such an archive" in entry.problems[0]


def test_missing_framework_says_what_to_install(store, build):
    needy = replace(ONNX, requires={"no_such_framework.core": "pip install frame-onnx[cpu]"})
    put(store, "m/m.onnx")
    assert build(engines=[needy]).entries[0].problems == (
        "the engine onnx needs no_such_framework.core: pip install frame-onnx[cpu]",
    )
    present = replace(ONNX, requires={"json": "never"})
    assert served(build(engines=[present])) == {("m", None): "onnx"}


@pytest.mark.parametrize("own", ["option.enable_venv=true", "option.pythonExecutable=/opt/py"])
def test_model_with_its_own_interpreter_brings_its_own_framework(store, build, own):
    needy = replace(ONNX, requires={"no_such_framework": "pip install x"})
    put(store, "m/m.onnx")
    put(store, "m/serving.properties", own)
    assert served(build(engines=[needy])) == {("m", None): "onnx"}


def test_engine_of_the_blog_names_its_distribution(store, build):
    put(store, "gpt-j/model.py")
    put(store, "gpt-j/serving.properties", "engine=Rubikon\n")
    (entry,) = build().entries
    assert entry.problems[0].startswith(
        "engine (serving.properties:1): Rubikon is not installed: pip install frame-deepspeed"
    )


def test_lenient_serves_models_with_unknown_keys(store, build):
    put(store, "m/m.onnx")
    put(store, "m/serving.properties", "bacth_size=2")
    assert served(build()) == {}
    assert served(build(lenient=True)) == {("m", None): "onnx"}


def test_unreadable_store_entry_stops_no_other(store, build, tmp_path):
    put(store, "good/m.onnx")
    (store / "loop").symlink_to("loop")
    catalog = build()
    assert served(catalog) == {("good", None): "onnx"}


def test_cache_is_where_the_settings_say(tmp_path):
    config = load_server_config(None, {"cache_dir": str(tmp_path)}, {})
    assert models_cache(config, {}) == tmp_path / "models"
    plain = load_server_config(None, {}, {})
    assert str(models_cache(plain, {"HOME": "/home/u"})) == "/home/u/.cache/frame/models"
    assert str(models_cache(plain, {"HOME": "/home/u", "XDG_CACHE_HOME": "/c"})) == "/c/frame/models"


def test_downloads_lie_in_the_cache_or_where_djls_variable_says(tmp_path):
    config = load_server_config(None, {"model_store": str(tmp_path)}, {})
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    reader = model_reader(config, ENGINES, home, lenient=False)
    assert reader.fetcher.cache == tmp_path / "cache" / "frame" / "downloads"
    reader = model_reader(config, ENGINES, {**home, "SERVING_DOWNLOAD_DIR": "/somewhere"}, lenient=False)
    assert reader.fetcher.cache == Path("/somewhere")
    assert (reader.fetcher.timeout, reader.fetcher.allows_private) == (3600.0, False)


def test_a_url_that_no_source_takes_refuses_its_model_alone(store, build):
    put(store, "mlp/mlp.onnx")
    catalog = build("m=gs://bucket/m.zip", str(store / "mlp"))
    assert served(catalog) == {("mlp", None): "onnx"}
    (refused,) = [entry for entry in catalog.entries if entry.problems]
    assert "no source has the scheme gs:" in refused.problems[0]


def test_the_platforms_accept_is_an_option_of_handlers(store, build):
    put(store, "m/model.py")
    (entry,) = build(environ={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}).entries
    assert entry.config.properties["default_accept"] == "text/csv"
    assert str(entry.config.sources["option.default_accept"]) == "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"

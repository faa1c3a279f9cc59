"""Which engine a model gets, and what is said when none or two fit."""

from __future__ import annotations

import logging

import pytest
from frame.api import Claim, EngineSpec, FileEntry, FolderListing
from frame.config.layers import Setting
from frame.config.settings import Source
from frame.errors import StoreError
from frame.store.detection import detect_engine, find_engine, named_engine


def spec(name, *claims, aliases=(), detect=None):
    given = {"detect": detect} if detect else {}
    return EngineSpec(name=name, api=(1, 1), target="x:X", aliases=aliases, claims=claims, **given)


def handler(spec, listing):
    return (
        Claim(strength=100, model_file="model.py", reason="found model.py")
        if listing.matching("model.py")
        else None
    )


def broken(spec, listing):
    raise RuntimeError("boom")


ONNX = spec("onnx", "*.onnx", aliases=("OnnxRuntime",))
PYTHON = spec("python", detect=handler)


def listing(*paths, name="m"):
    return FolderListing(name=name, files=tuple(FileEntry(path, 1) for path in paths), properties={})


def named(value):
    return Setting(key="engine", value=value, source=Source("file", "serving.properties:1"))


@pytest.mark.parametrize("name", ["onnx", "ONNX", "OnnxRuntime", " onnxruntime "])
def test_named_engine_is_found_by_name_and_alias_in_any_case(name):
    found = detect_engine(listing("model.py", "a.onnx"), [PYTHON, ONNX], named(name))
    assert (found.spec, found.claim.model_file) == (ONNX, "a.onnx")
    assert found.source.where == "serving.properties:1"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"option.mpi_mode": "true"}, "MPI"),
        ({"option.mpi_mode": "True", "engine": "Python"}, "MPI"),
        ({"option.mpi_mode": "false", "engine": "Python"}, "Python"),
        ({"option.mpi_mode": "true", "engine": "OnnxRuntime"}, "OnnxRuntime"),
        ({}, None),
    ],
)
def test_a_python_handler_in_mpi_mode_is_one_of_the_engine_mpi(settings, name):
    made = {
        key: Setting(key=key, value=value, source=Source("file", f"serving.properties:{line}"))
        for line, (key, value) in enumerate(settings.items())
    }
    found = named_engine(made)
    assert (found.value if found else None) == name
    if name == "MPI":
        assert found.source.where == "serving.properties:0"


def test_named_engine_needs_no_claim():
    assert detect_engine(listing("a.txt"), [ONNX], named("onnx")).claim is None


def test_name_wins_over_the_alias_of_another_engine():
    other = spec("other", aliases=("onnx",))
    assert find_engine("onnx", [other, ONNX]) is ONNX
    assert find_engine("none", [other, ONNX]) is None


def test_handler_beside_weights_wins():
    found = detect_engine(listing("a.onnx", "model.py"), [ONNX, PYTHON], None)
    assert (found.spec, found.source) == (PYTHON, Source("default", "found model.py"))


def test_tie_is_an_error_with_both_reasons_and_the_line_to_add():
    with pytest.raises(StoreError) as caught:
        detect_engine(listing("a.onnx", "a.pt"), [ONNX, spec("torchscript", "*.pt")], None)
    assert str(caught.value) == (
        "several engines claim this model equally: onnx (found a.onnx); torchscript (found a.pt); "
        "add engine=onnx or engine=torchscript to serving.properties"
    )


def test_named_engine_that_is_not_installed_says_what_to_install():
    with pytest.raises(StoreError) as caught:
        detect_engine(listing("a"), [ONNX], named("TensorFlow"))
    assert str(caught.value).startswith("engine (serving.properties:1): TensorFlow is not installed: ")
    assert str(caught.value).endswith("pip install frame-tf[cpu] (installed: onnx)")
    with pytest.raises(
        StoreError, match=r"Rubikon is not installed: pip install frame-deepspeed \(installed: none\)"
    ):
        detect_engine(listing("a"), [], named("Rubikon"))


def test_unknown_engine_lists_the_installed_ones():
    with pytest.raises(StoreError, match="no engine is called 'Foo'; installed: onnx, python"):
        detect_engine(listing("a"), [ONNX, PYTHON], named("Foo"))


def test_unclaimed_files_of_an_engine_that_is_not_installed_say_what_to_install():
    with pytest.raises(StoreError, match=r"model: saved_model.pb; pip install frame-tf\[cpu\]"):
        detect_engine(listing("saved_model.pb"), [ONNX], None)


def test_unclaimed_files_are_shown():
    with pytest.raises(
        StoreError, match=r"\(onnx\) recognises the files of the model: 0, 1, 2, 3, 4, …; add engine="
    ):
        detect_engine(listing(*"0123456"), [ONNX], None)


def test_model_without_files_is_an_error():
    with pytest.raises(StoreError, match="the model has no files"):
        detect_engine(listing(), [ONNX], None)


def test_detection_that_fails_claims_nothing_and_is_logged(caplog):
    with caplog.at_level(logging.ERROR):
        found = detect_engine(listing("a.onnx"), [spec("bad", detect=broken), ONNX], None)
    assert found.spec is ONNX
    assert "engine_detect_failed engine=bad model=m" in caplog.text

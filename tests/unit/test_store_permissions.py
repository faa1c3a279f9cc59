"""Folders that may not be read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from frame.api import EngineSpec
from frame.config.files import load_server_config
from frame.store.catalog import build_catalog

ONNX = EngineSpec(name="onnx", api=(1, 1), target="x:X", claims=("*.onnx",))


def put(folder):
    folder.mkdir()
    (folder / "m.onnx").write_text("")


@pytest.fixture
def unreadable():
    """Yield a function that locks a folder, and act as a user whom locks stop until the test ends."""
    locked = []

    def lock(folder):
        folder.chmod(0)
        locked.append(folder)
        if os.geteuid() == 0:
            os.seteuid(65534)

    yield lock
    if os.getuid() == 0:
        os.seteuid(0)
    for folder in locked:
        folder.chmod(0o755)


@pytest.fixture
def open_store():
    with tempfile.TemporaryDirectory() as text:
        Path(text).chmod(0o755)
        yield Path(text)


def build_from(store):
    config = load_server_config(None, {"model_store": str(store)}, {})
    return build_catalog(config, (), [ONNX], {}, lenient=False)


def test_unreadable_model_is_refused_by_name_and_the_others_are_served(open_store, unreadable):
    put(open_store / "good")
    put(open_store / "secret")
    unreadable(open_store / "secret")
    catalog = build_from(open_store)
    assert [entry.name for entry in catalog.entries if entry.config] == ["good"]
    assert "secret: cannot be read: Permission denied" in catalog.entries[1].problems[0]


def test_unreadable_store_is_a_problem(open_store, unreadable):
    put(open_store / "m")
    unreadable(open_store)
    catalog = build_from(open_store)
    assert catalog.entries == ()
    assert "cannot be read: Permission denied" in catalog.problems[0]

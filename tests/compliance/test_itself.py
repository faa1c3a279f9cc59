"""Engines that do what none must do: the standard tests find each of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from frame.testing import EngineCompliance

pytestmark = pytest.mark.slow(300)
PLUGIN = """
import numpy
import pluggy
from dataclasses import dataclass
from frame.api import Claim, EngineSpec, option

@dataclass(frozen=True)
class Options:
    kind: str = option("", "What it does wrong.")

SHARED = {
    "api": (1, 1), "target": "zz_wrong_engine:Wrong", "options": Options, "packages": ("zz_wrong_plugin",)
}

@pluggy.HookimplMarker("frame")
def frame_engines():
    greedy = lambda spec, listing: Claim(strength=1, model_file=None, reason="whatever it is")
    return [
        EngineSpec(name="wrong", **SHARED),
        EngineSpec(name="greedy", detect=greedy, **SHARED),
    ]
"""
ENGINE = """
import itertools
import json
import threading

from frame.api import Engine, Model, Part, RequestError, Response

KEPT = []


class WrongModel(Model):
    def __init__(self, kind):
        self.kind = kind
        self.count = itertools.count()
        self.concurrency = 8 if kind == "shared state" else 1
        self.last = None

    def predict(self, batch):
        answers = [self.answer(request) for request in batch]
        if self.kind == "mixes up":
            answers.reverse()
        return answers

    def answer(self, request):
        if self.kind == "fails the batch":
            value = json.loads(bytes(request.data))
        else:
            try:
                value = json.loads(bytes(request.data))
            except ValueError as error:
                return RequestError(400, str(error))
        found = {"value": value}
        if self.kind == "counts":
            found["count"] = next(self.count)
        if self.kind == "shared state":
            self.last = value
            threading.Event().wait(0.02)
            found = {"value": self.last}
        if self.kind == "constant":
            found = {}
        body = Part("data", json.dumps(found).encode())
        return Response(properties={"content-type": "application/json"}, parts=(body,))

    def close(self):
        if self.kind == "closes once":
            self.kind = self.kind.none


class Wrong(Engine):
    def load(self, spec):
        if spec.options.kind == "leaks":
            KEPT.append(open("/dev/null"))
            thread = threading.Thread(target=threading.Event().wait, daemon=True)
            thread.start()
        return WrongModel(spec.options.kind)
"""
TESTS = """
import pytest
from frame.testing import EngineCompliance, json_request


class Wrong(EngineCompliance):
    @pytest.fixture
    def engine(self):
        return "wrong"

    @pytest.fixture
    def model_dir(self, tmp_path):
        (tmp_path / "any").touch()
        return tmp_path

    @pytest.fixture
    def requests(self):
        return [json_request(number) for number in range(3)]


class TestMixesUp(Wrong):
    settings = {"option.kind": "mixes up"}

class TestFailsTheBatch(Wrong):
    settings = {"option.kind": "fails the batch"}

class TestCounts(Wrong):
    settings = {"option.kind": "counts"}

class TestSharedState(Wrong):
    settings = {"option.kind": "shared state"}

class TestConstant(Wrong):
    settings = {"option.kind": "constant"}

class TestClosesOnce(Wrong):
    settings = {"option.kind": "closes once"}

class TestLeaks(Wrong):
    settings = {"option.kind": "leaks"}

class TestGreedy(Wrong):
    @pytest.fixture
    def engine(self):
        return "greedy"

class TestRight(Wrong):
    pass
"""
EXPECTED = {
    "TestMixesUp": {
        "test_batches_answer_as_requests_alone",
        "test_a_malformed_request_fails_alone",
        "test_streams_end_when_their_client_goes",
    },
    "TestFailsTheBatch": {"test_a_malformed_request_fails_alone"},
    "TestCounts": {
        "test_the_same_request_has_the_same_answer",
        "test_batches_answer_as_requests_alone",
        "test_a_malformed_request_fails_alone",
        "test_overlapping_batches_answer_as_requests_alone",
        "test_streams_end_when_their_client_goes",
    },
    "TestSharedState": {"test_overlapping_batches_answer_as_requests_alone"},
    "TestConstant": {"test_good_requests_are_answered"},
    "TestClosesOnce": {"test_closing_twice_leaves_nothing"},
    "TestLeaks": {"test_closing_twice_leaves_nothing"},
    "TestGreedy": {"test_an_empty_folder_is_nobodys"},
    "TestRight": set(),
}
"""What must fail of each engine, and nothing else."""
OF_ALL = {"test_declaring_imports_no_framework"}
"""The plugin of all of them imports numpy."""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Run the standard tests on all wrong engines; return those that failed, by class."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "zz_wrong_plugin.py").write_text(PLUGIN)
    (folder / "zz_wrong_engine.py").write_text(ENGINE)
    (folder / "test_wrong.py").write_text(TESTS)
    info = folder / "zz_wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[frame.plugins]\nzz_wrong = zz_wrong_plugin\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(folder),
            str(folder),
        ],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found: dict[str, set[str]] = {name: set() for name in EXPECTED}
    for name, test in re.findall(r"^(?:FAILED|ERROR) \S+?::(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found[name].add(test)
    assert "passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_engine_fails_the_test_that_is_about_it(failed: dict[str, set[str]], name: str) -> None:
    assert failed[name] - OF_ALL == EXPECTED[name]


def test_what_a_plugin_imports_is_found(failed: dict[str, set[str]]) -> None:
    assert all(found >= OF_ALL for found in failed.values())


def test_a_standard_test_is_not_left_out_in_silence() -> None:
    def test_good_requests_are_answered(self: object) -> None:
        del self

    body = {"test_good_requests_are_answered": test_good_requests_are_answered}
    with pytest.raises(TypeError, match=r"mark it with pytest\.mark\.xfail"):
        type("TestMine", (EngineCompliance,), body)
    marked = pytest.mark.xfail(reason="this engine answers nothing")(test_good_requests_are_answered)
    assert type("TestMine", (EngineCompliance,), {"test_good_requests_are_answered": marked})

"""The pages build, and what they show is true of the code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from frame import errors
from frame.config.properties import parse_properties

from tests.docs.pages import DOCS, ROOT, code_blocks, page, words_in_code
from tests.docs.reference import known_keys

PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
ROUTER_FOLDERS = ("cli", "config", "http", "pool", "store")
OPERATOR_LEVELS = {"info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"^([a-z]+(?:_[a-z]+)+)\b")


@pytest.mark.slow(60)
@pytest.mark.timeout(60)
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "compatibility" / "index.html").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_in_the_navigation(name: str) -> None:
    assert f" {name}.md\n" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_json_examples_are_json(name: str) -> None:
    for block in code_blocks(page(name), "json"):
        json.loads(block)


@pytest.mark.parametrize("name", PAGES)
def test_properties_examples_have_known_keys(name: str) -> None:
    handlers_own = {"option.factor"}  # read by the example's model.py
    for block in code_blocks(page(name), "properties"):
        keys = {item.key for item in parse_properties(block, f"{name}.md")}
        assert keys - known_keys() - handlers_own == set()


@pytest.mark.parametrize("name", PAGES)
def test_python_examples_are_python(name: str) -> None:
    for block in code_blocks(page(name), "python"):
        ast.parse(block)


def error_classes() -> list[type[errors.FrameError]]:
    """Return the classes that end a request."""
    found = [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.FrameError)
    ]
    own = {"ConfigError", "StoreError", "PluginError", "LoadError"}  # these end a start, not a request
    return [item for item in found if item.__name__ not in own]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_each_error_is_listed_with_its_status(kind: type[errors.FrameError]) -> None:
    rows = [line for line in page("http-api").splitlines() if re.match(r"\| \d{3} \|", line)]
    assert any(f"| {kind.status} |" in line and f"`{kind.__name__}`" in line for line in rows)


def router_sources() -> list[Path]:
    """Return the modules of the router's half that talk to operators."""
    return [path for folder in ROUTER_FOLDERS for path in (ROOT / "core/src/frame" / folder).rglob("*.py")]


def events_of(source: str) -> set[str]:
    """Return the names of the events that a module logs at info or above."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    found = set()
    for call in calls:
        logs = isinstance(call.func, ast.Attribute) and call.func.attr in OPERATOR_LEVELS
        text = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
        if logs and isinstance(text, str) and (match := EVENT.match(text)):
            found.add(match[1])
    return found


def test_each_event_of_the_log_is_explained() -> None:
    logged = {event for path in router_sources() for event in events_of(path.read_text())}
    explained = set(
        re.findall(r"^\| `(\w+)` \|", page("operations").split("## Logs")[1].split("\n## ")[0], re.MULTILINE)
    )
    assert logged
    assert explained == logged


def test_each_metric_is_listed() -> None:
    in_code = {
        name for path in router_sources() for name in re.findall(r'"(frame_[a-z_]+)"', path.read_text())
    }
    listed = set(re.findall(r"^\| `(frame_[a-z_]+)` \|", page("operations"), re.MULTILINE))
    hooks = {"frame_engines", "frame_protocols", "frame_model_sources"}
    assert in_code - hooks
    assert {base_name(name) for name in listed} == {base_name(name) for name in in_code - hooks}


def base_name(metric: str) -> str:
    """Return a metric's name without the suffix that the client library adds to its samples."""
    return re.sub("_(total|sum|count|bucket)$", "", metric)


def test_the_words_of_a_page_are_found() -> None:
    assert {"frame_queue_length", "option.predict_timeout", "drain_timeout"} <= words_in_code(
        page("operations")
    )

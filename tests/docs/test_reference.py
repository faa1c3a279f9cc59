"""The reference tables are what the code says."""

from __future__ import annotations

import pytest
from frame import hookspecs
from frame.config.keys import UNUSED_MODEL_KEYS
from frame.config.server_keys import UNUSED_SERVER_KEYS, UNUSED_VARIABLES
from frame.http.routes import CONTROL_PLANE, default_table
from frame.plugins import load_plugins

from tests.docs.pages import Row, compatibility_rows, page, words_in_code
from tests.docs.reference import PAGES, installed_engines, known_keys, marked, references

ROWS = tuple(compatibility_rows(page("compatibility")))
REFRESH = "python -m tests.docs.reference writes it"
OWN_ROUTES = {
    "/models/{name}/explain",
    "/models/{name}/traffic",
    "/metrics",
    "/models/{name}/{version}/explain",
}
"""Routes that DJL Serving does not have."""
KEY_SECTIONS = {
    "serving.properties: worker and batching keys",
    "Options of the Python engine",
    "Options of other engines",
    "Arguments (keys without a prefix)",
    "config.properties",
    "Large language models: options",
    "DeepSpeed handler",
}


@pytest.mark.parametrize("name", references())
def test_each_reference_table_is_in_its_page_as_the_code_has_it(name: str) -> None:
    places = [found[1] for text in map(page, PAGES) for found in marked(name).finditer(text)]
    assert len(places) == 1, f"no page has a place for {name!r}"
    assert places[0].strip() == references()[name](), REFRESH


def test_no_plugin_of_the_reference_is_broken() -> None:
    assert load_plugins().broken == []


def test_every_route_is_described() -> None:
    described = words_in_code(page("http-api"))
    assert [point.path for point in default_table().endpoints if point.path not in described] == []


def test_every_route_of_the_server_is_compatible_or_says_so() -> None:
    names = {row.name for row in ROWS} | OWN_ROUTES
    missing = [
        point.path
        for point in CONTROL_PLANE
        if not any(
            name.endswith(point.path.replace("{model}", "{name}").replace("{workflow}", "{name}"))
            for name in names
        )
    ]
    assert missing == []


def test_every_hook_is_described() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("frame_")}
    assert {"frame_engines", "frame_model_sources"} <= hooks
    assert hooks - words_in_code(page("design")) == set()


def unused_keys() -> list[str]:
    """Return every key of DJL Serving that Frame accepts with a warning."""
    return [key.name for key in (*UNUSED_MODEL_KEYS, *UNUSED_SERVER_KEYS, *UNUSED_VARIABLES)]


@pytest.mark.parametrize("key", unused_keys())
def test_a_key_without_a_meaning_here_has_a_row(key: str) -> None:
    assert [row.name for row in ROWS if key in row.name.split(", ")], (
        f"docs/compatibility.md says nothing of {key}"
    )


def is_key(row: Row) -> bool:
    """Tell whether a row is about a key of a configuration file, and not about a rule or a value of one."""
    return row.section in KEY_SECTIONS and " " not in row.name and "=" not in row.name


def test_accepted_with_a_warning_is_what_the_code_says() -> None:
    said = {row.name for row in ROWS if is_key(row) and row.detail == "accepted with a warning"}
    assert said - set(unused_keys()) == set()


def test_a_key_that_is_done_is_one_that_the_code_reads() -> None:
    said = {row.name for row in ROWS if is_key(row) and row.status == "done"}
    assert said - known_keys() == set()


def test_a_key_that_comes_later_does_not_stop_a_configuration() -> None:
    later = {row.name for row in ROWS if is_key(row) and row.status == "later"}
    open_engines = any(spec.open_options for spec in installed_engines())
    refused = {name for name in later - known_keys() - set(unused_keys()) if not name.startswith("option.")}
    assert open_engines
    assert refused == set()

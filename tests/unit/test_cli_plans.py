"""What is known to be wrong before anything is started, and how `frame check` shows groups of ranks."""

from __future__ import annotations

import json

import pytest
from frame.api import EngineSpec
from frame.cli.check import check_exit_code, check_models
from frame.cli.plans import Planner, depends_on_machine, group_devices, with_entries
from frame.cli.settings import CommandSettings
from frame.config.files import load_server_config
from frame.contract.engines import Preflight
from frame.plugins import LoadedPlugin, Plugins
from frame.store.catalog import build_catalog


def engine(*, ranks: int = 2, preflight=lambda _: (), **more) -> EngineSpec:
    return EngineSpec(
        name="wide",
        api=(1, 1),
        target="x:X",
        claims=("*.wide",),
        ranks=lambda _: ranks,
        fills_devices=True,
        preflight=preflight,
        **more,
    )


PLAIN = EngineSpec(name="plain", api=(1, 1), target="x:X", claims=("*.plain",))


@pytest.fixture
def store(tmp_path):
    for name, file in (("big", "model.wide"), ("small", "model.plain")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    return tmp_path


def server(store):
    return load_server_config(None, {"model_store": str(store)}, {})


def planned(store, spec: EngineSpec, wanted=lambda _: True):
    catalog = build_catalog(server(store), (), [spec, PLAIN], {}, lenient=False)
    return catalog, Planner({"wide": spec, "plain": PLAIN}, {}, cores=8).plan(catalog, wanted)


def check(store, spec: EngineSpec, *, as_json: bool = False):
    loaded = LoadedPlugin(name="p", distribution="d", version="1", import_seconds=0.0, engines=(spec, PLAIN))
    plugins = Plugins(loaded=[loaded])
    settings = CommandSettings(server=server(store), models=(), plugins=plugins, environ={}, lenient=False)
    return check_models(settings, as_json=as_json)


# --- before a start ----------------------------------------------------------------------------------


def test_what_the_engine_knows_to_be_wrong_refuses_its_model_and_no_other(store):
    problems = ("option.a: wrong; set b", "option.c: wrong; set d")
    catalog, models = planned(store, engine(preflight=lambda _: problems))
    big, small = models
    assert (big.plan, big.entry.config, big.entry.problems) == (None, None, problems)
    assert small.plan is not None
    assert [entry.name for entry in with_entries(catalog, models).entries] == ["big", "small"]


def test_the_engine_looks_at_the_group_as_it_would_be_started(store):
    seen: list[Preflight] = []
    planned(store, engine(ranks=3, preflight=lambda preflight: seen.append(preflight) or ()))
    (preflight,) = seen
    assert (preflight.path, preflight.model_file) == (str(store / "big"), "model.wide")
    assert (preflight.ranks, preflight.devices) == (3, ("cpu",))
    assert preflight.interpreter


def test_an_engine_that_fails_to_check_refuses_its_model_with_the_reason(store, caplog):
    def broken(preflight: Preflight):
        yield "the first problem"
        raise RuntimeError("no such key")

    _, (big, small) = planned(store, engine(preflight=broken))
    assert big.entry.problems == ("the engine wide could not check it: RuntimeError: no such key",)
    assert small.plan is not None
    assert "preflight_failed model=big" in caplog.text


def test_a_plan_that_cannot_be_made_refuses_its_model(store):
    (store / "big" / "serving.properties").write_text("load_on_devices=gpu7")
    _, (big, _) = planned(store, engine())
    assert big.plan is None
    assert "load_on_devices: gpu7 is not there" in big.entry.problems[0]


def test_refused_entries_stay_as_they_are(store):
    (store / "big" / "serving.properties").write_text("batch_size=x")
    _, (big, _) = planned(store, engine())
    assert (big.plan, big.entry.config) == (None, None)
    assert "batch_size" in big.entry.problems[0]


# --- frame check -------------------------------------------------------------------------------------


def test_groups_and_their_ranks_are_shown(store):
    catalog, text = check(store, engine(ranks=4))
    assert check_exit_code(catalog) == 0
    assert "  workers  1-1, each of 4 ranks, on cpu" in text


def test_json_has_groups_ranks_and_devices(store):
    (store / "big" / "serving.properties").write_text("minWorkers=1\nmaxWorkers=2")
    big, small = json.loads(check(store, engine(), as_json=True)[1])["models"]
    assert big["groups"] == {"min": 1, "max": 2, "ranks": 2, "devices": ["cpu", "cpu"]}
    assert "groups" not in small


def test_problems_of_this_machine_refuse_in_the_check_too(store):
    catalog, text = check(store, engine(preflight=lambda _: ("option.a: wrong; set b",)))
    assert check_exit_code(catalog) == 1
    assert "big  REFUSED" in text
    assert "  problem: option.a: wrong; set b" in text
    assert text.endswith("1 of 2 models would be served")


def test_models_of_other_engines_are_checked_for_any_machine(store):
    (store / "small" / "serving.properties").write_text("load_on_devices=gpu7")
    assert check_exit_code(check(store, engine())[0]) == 0
    assert not depends_on_machine(PLAIN)
    assert depends_on_machine(engine())


def test_each_group_names_its_devices_together(store):
    _, (big, _) = planned(store, engine())
    assert big.plan is not None
    assert group_devices(big.plan) == ("cpu",)

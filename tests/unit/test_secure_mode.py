"""SageMaker's secure mode refuses what its controls disallow, whatever a model says."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from frame.api import Claim, EngineSpec
from frame.builtins import frame_engines
from frame.config.files import load_server_config
from frame.store.catalog import build_catalog
from frame.store.secure import CONTROLS

ONNX = EngineSpec(name="onnx", api=(1, 1), target="x:X", claims=("*.onnx",))
PYTHON = EngineSpec(
    name="python",
    api=(1, 1),
    target="x:X",
    open_options=True,
    detect=lambda spec, listing: Claim(strength=10, model_file=None, reason="test"),
)
ALL = ",".join(sorted(CONTROLS))
Problems = Callable[..., list[str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder that nothing is wrong with."""
    folder = tmp_path / "channel" / "m"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def problems(tmp_path: Path, model: Path) -> Problems:
    """Return what reads the model, with these controls, and returns what is wrong."""

    def read(
        controls: str | None = ALL, *, channels: str | None = None, url: Path = model, mode: str = "true"
    ) -> list[str]:
        environ = {"SAGEMAKER_SECURE_MODE": mode, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        if controls is not None:
            environ["SAGEMAKER_SECURITY_CONTROLS"] = controls
        if channels is not None:
            environ["SAGEMAKER_UNTRUSTED_CHANNELS"] = channels
        config = load_server_config(None, {}, {})
        catalog = build_catalog(config, [f"m={url}"], (ONNX, PYTHON), environ, lenient=True)
        (entry,) = catalog.entries
        assert (entry.config is None) == bool(entry.problems)
        return list(entry.problems)

    return read


def test_a_model_without_code_and_pickles_is_served(problems: Problems) -> None:
    assert problems() == []


PICKLED = ("bin", "pt", "pth", "ckpt", "pkl", "PKL", "joblib", "jl", "cloudpkl")
BREACHES = {
    "DISALLOW_REQUIREMENTS_TXT": [("requirements.txt", "numpy")],
    "DISALLOW_PICKLE_FILES": [
        *(
            (f"deep/er/w.{end}", "")
            for end in ("bin", "pt", "pth", "ckpt", "pkl", "PKL", "joblib", "jl", "cloudpkl")
        ),
    ],
    "DISALLOW_TRUST_REMOTE_CODE": [
        ("serving.properties", "option.trust_remote_code=True\n"),
        ("serving.properties", "option.trust_remote_code=true \n"),
    ],
    "DISALLOW_CUSTOM_INFERENCE_SCRIPTS": [
        ("model.py", ""),
        ("m.py", ""),
        ("code/inference.py", ""),
        ("MAR-INF/MANIFEST.json", "{}"),
        ("serving.properties", "option.entryPoint=serve.py\n"),
        ("serving.properties", "option.entryPoint=my.package\n"),
    ],
    "DISALLOW_CHAT_TEMPLATE": [
        ("tokenizer_config.json", json.dumps({"chat_template": "{{ x }}"})),
        ("deep/tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "{not json"),
        ("chat_template.jinja", "{{ x }}"),
    ],
}


@pytest.mark.parametrize(
    ("control", "name", "text"),
    [(control, *item) for control, items in BREACHES.items() for item in items],
)
def test_each_control_refuses_what_it_is_about_and_nothing_else(
    problems: Problems, model: Path, control: str, name: str, text: str
) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text(text)
    (problem,) = problems(control)
    assert "SAGEMAKER_SECURE_MODE" in problem
    assert problems(",".join(CONTROLS - {control})) == []
    assert problems(mode="false") == []
    assert problems(ALL)


def test_files_that_are_pickles_may_not_be_vouched_for(problems: Problems, model: Path) -> None:
    (model / "serving.properties").write_text("option.trust_insecure_model_files=true\n")
    assert [text for text in problems("DISALLOW_PICKLE_FILES") if "DISALLOW_PICKLE_FILES" in text]


def test_built_in_handlers_may_be_named_but_not_beside_code(problems: Problems, model: Path) -> None:
    (model / "serving.properties").write_text("option.entryPoint=djl_python.transformers\n")
    assert problems() == []
    (model / "model.py").touch()
    assert "model.py" in problems()[0]


@pytest.mark.parametrize(
    "text",
    [
        "option.pythonExecutable=/tmp/python\n",
        "option.env=LD_PRELOAD=/tmp/x.so\n",
        "option.of_mine=1\n",
    ],
)
def test_options_that_are_unknown_or_choose_what_workers_run_with_are_refused(
    problems: Problems, model: Path, text: str
) -> None:
    (model / "serving.properties").write_text(text)
    (problem,) = problems("")
    assert text.partition("=")[0] in problem
    (model / "serving.properties").write_text("option.pythonExecutable=/usr/bin/python3\nbatch_size=2\n")
    assert problems("") == []


def test_without_controls_or_with_unknown_ones_nothing_is_served(problems: Problems) -> None:
    assert "needs SAGEMAKER_SECURITY_CONTROLS" in problems(None)[0]
    assert "DISALLOW_EVERYTHING is unknown" in problems("DISALLOW_EVERYTHING")[0]


def test_files_are_looked_at_in_the_channels_and_in_what_was_extracted(
    problems: Problems, model: Path, tmp_path: Path
) -> None:
    trusted = tmp_path / "image"
    trusted.mkdir()
    (trusted / "w.bin").touch()
    channel = str(model.parent)
    assert problems(channels=channel, url=trusted) == []
    assert problems(url=trusted)  # without channels nothing is trusted
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("w.bin", "")
    assert "w.bin" in problems(channels=channel, url=archive)[0]
    (model.parent / "other.pkl").touch()
    assert "other.pkl" in problems(channels=channel, url=trusted)[0]
    assert "is no folder" in problems(channels=f"{channel},/there/is/nothing", url=trusted)[-1]


def test_workflows_have_no_functions_where_scripts_are_disallowed(tmp_path: Path, model: Path) -> None:
    flow = tmp_path / "channel" / "flow"
    flow.mkdir()
    (flow / "steps.py").write_text("def f(value):\n    return value\n")
    environ = {"SAGEMAKER_SECURE_MODE": "true", "SAGEMAKER_SECURITY_CONTROLS": ALL}

    def read(content: dict[str, object]) -> tuple[str, ...]:
        (flow / "workflow.json").write_text(json.dumps(content))
        config = load_server_config(None, {}, {})
        engines = (ONNX, PYTHON, *frame_engines())
        (entry,) = build_catalog(config, [str(flow)], engines, environ, lenient=False).entries
        return entry.problems

    calls = {"models": {"m": str(model)}, "workflow": {"out": ["ensemble", ["id", ["m", "in"]]]}}
    assert read(calls) == ()
    (problem,) = read({"functions": {"f": "steps.py:f"}, "workflow": {"out": ["f", "in"]}})
    assert problem.startswith("flow:functions: functions: DISALLOW_CUSTOM_INFERENCE_SCRIPTS")
    (model / "model.py").touch()
    (problem,) = read(calls)
    assert problem.startswith("flow:m: model.py: DISALLOW_CUSTOM_INFERENCE_SCRIPTS")

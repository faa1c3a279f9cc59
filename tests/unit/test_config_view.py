"""Settings as they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import EngineSpec, option
from frame.config.layers import file_layer
from frame.config.models import ModelIdentity, build_model_config
from frame.config.properties import parse_properties
from frame.config.servers import build_server_config
from frame.config.settings import Source
from frame.config.view import shown_model_settings, shown_server_settings

SERVER = build_server_config([], "", {"keystore_pass": "hunter2"}, {}, lenient=False, memory_bytes=2**30)


@dataclass(frozen=True, slots=True)
class Options:
    share: float = option(0.5, "A share.")


def shown(text):
    identity = ModelIdentity(
        name="m",
        version=None,
        path="/m",
        model_file=None,
        spec=EngineSpec(name="python", api=(1, 1), target="x:X", options=Options, open_options=True),
        engine_source=Source("default", "found model.py"),
    )
    layer = file_layer(parse_properties(text, "f"), "f")
    config = build_model_config(identity, [layer], SERVER, lenient=False).config
    assert config is not None
    return {key: item.value for key, item in shown_model_settings(config).items()}


def test_every_value_is_written_as_in_the_file():
    text = "load_on_devices=0;1\ngpu.minWorkers=2\noption.voice=alto\noption.parallel_loading=TRUE\nwidth=8"
    values = shown(text)
    assert values["engine"] == "python"
    assert values["load_on_devices"] == "gpu0;gpu1"
    assert values["gpu.minWorkers"] == "2"
    assert values["option.voice"] == "alto"
    assert values["option.parallel_loading"] == "true"
    assert values["option.predict_timeout"] == "120"
    assert values["option.share"] == "0.5"
    assert values["maxWorkers"] == ""
    assert values["width"] == "8"


def test_secrets_are_masked():
    assert shown("option.env=TOKEN=hunter2,B=x")["option.env"] == "TOKEN=***,B=***"
    assert shown_server_settings(SERVER)["keystore_pass"].value == "***"
    assert shown_server_settings(SERVER)["keystore_pass"].source == Source("flag", "--keystore-pass")


def test_server_settings_are_shown_in_full():
    assert shown_server_settings(SERVER)["inference_address"].value == "http://127.0.0.1:8080"

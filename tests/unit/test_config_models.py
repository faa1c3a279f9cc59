"""A model's settings: every kind of key, precedence, sources, and errors with their place."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
from frame.api import EngineSpec, option
from frame.config.forms import PadTo
from frame.config.keys import MODEL_KEYS, UNUSED_MODEL_KEYS
from frame.config.layers import environment_layer, file_layer
from frame.config.models import CheckedModel, ModelIdentity, build_model_config
from frame.config.properties import parse_properties
from frame.config.servers import build_server_config
from frame.config.settings import ModelConfig, Source, memory_needs, worker_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    intra_op_num_threads: int = option(1, "Threads.", aliases=("intraOpNumThreads",), minimum=1)


ONNX = EngineSpec(name="onnx", api=(1, 1), target="x:X", options=Options)
PYTHON = EngineSpec(name="python", api=(1, 1), target="x:X", open_options=True)


def check(text="", *, spec=ONNX, environ=None, flags=None, server_file="", lenient=False) -> CheckedModel:
    server = build_server_config(
        parse_properties(server_file, "config.properties"),
        "config.properties",
        {},
        environ or {},
        lenient=False,
        memory_bytes=2**30,
    )
    identity = ModelIdentity(
        name="m",
        version="v1",
        path="/store/m",
        model_file="m.onnx",
        spec=spec,
        engine_source=Source("default", "found m.onnx"),
    )
    layers = [
        file_layer(parse_properties(flags or "", "-m"), "-m"),
        file_layer(parse_properties(text, "serving.properties"), "serving.properties"),
        environment_layer(environ or {}, ["option.intra_op_num_threads"]),
    ]
    return build_model_config(identity, layers, server, lenient=lenient)


def config(text="", **settings) -> ModelConfig:
    checked = check(text, **settings)
    assert checked.problems == ()
    assert checked.config is not None
    return checked.config


def test_every_key_of_the_table_is_an_attribute():
    attributes = {item.name for item in fields(ModelConfig)}
    assert {key.field for key in MODEL_KEYS} <= attributes


def test_model_without_a_file_has_the_tables_defaults():
    built = config()
    assert {key.name: getattr(built, key.field) for key in MODEL_KEYS} == {
        key.name: key.default for key in MODEL_KEYS
    }
    assert (built.name, built.version, built.path, built.engine, built.model_file) == (
        "m", "v1", "/store/m", "onnx", "m.onnx",
    )  # fmt: skip
    assert built.options == Options()
    assert built.sources["batch_size"].kind == "default"
    assert built.sources["engine"] == Source("default", "found m.onnx")


VALUES = {
    "job_queue_size": ("7", 7),
    "batch_size": (" 8 ", 8),
    "max_batch_delay": ("0", 0),
    "batching": ("adaptive", "adaptive"),
    "latency_target_ms": ("50", 50.0),
    "max_batch_elements": ("4096", 4096),
    "pad_to": ("64, 16,32", PadTo(lengths=(16, 32, 64))),
    "pad_values": ("input_ids=0, labels=-100", {"input_ids": 0.0, "labels": -100.0}),
    "pad_mask": ("attention_mask", "attention_mask"),
    "max_idle_time": ("5", 5),
    "minWorkers": ("0", 0),
    "maxWorkers": ("3", 3),
    "load_on_devices": ("0;cpu", ("gpu0", "cpu")),
    "required_memory_mb": ("10", 10),
    "reserved_memory_mb": ("20", 20),
    "retry_threshold": ("0", 0),
    "load_on_demand": ("true", True),
    "quarantine_time": ("0", 0.0),
    "request_timeout": ("2.5", 2.5),
    "log_request_metric": ("True", True),
    "metrics_aggregation": ("10", 10),
    "slots_per_group": ("2", 2),
    "option.predict_timeout": ("0.5", 0.5),
    "option.group_stall_timeout": ("2.5", 2.5),
    "option.model_loading_timeout": ("60", 60.0),
    "option.drain_time": ("0", 0.0),
    "option.parallel_loading": ("true", True),
    "option.pythonExecutable": ("/usr/bin/python3", "/usr/bin/python3"),
    "option.enable_venv": ("true", True),
    "option.env": ("A=1,B=2", {"A": "1", "B": "2"}),
    "option.modelName": ("net", "net"),
    "option.shares_model": ("false", False),
    "option.retry_on_crash": ("false", False),
}
NEEDS = {"batching": "latency_target_ms=50", "pad_values": "pad_to=batch", "pad_mask": "pad_to=batch"}


def test_values_for_the_test_below_cover_the_table():
    assert set(VALUES) == {key.name for key in MODEL_KEYS}


@pytest.mark.parametrize("key", VALUES)
def test_known_key_is_typed_and_knows_its_line(key):
    text, value = VALUES[key]
    built = config(f"engine=onnx\n{key}={text}\n{NEEDS.get(key, '')}")
    assert getattr(built, key.removeprefix("option.")) == value
    assert built.sources[key] == Source("file", "serving.properties:2")
    assert built.warnings == ()


DEVICES = "valid: *, or cpu, gpu0, gpu0+gpu1, separated by ;"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("batch_size=abc", "'abc' is not a whole number >= 1"),
        ("batching=clever", "'clever' is not one of fixed, adaptive"),
        ("batching=adaptive", "adaptive needs latency_target_ms"),
        ("pad_mask=mask", "needs pad_to"),
        ("pad_to=32,x", "'32,x' is no way to pad; valid: batch, multiple:8, or lengths such as 16,32,64"),
        ("pad_values=ids", "'ids' is not name=number; valid: input_ids=0,labels=-100"),
        ("batch_size=", "'' is not a whole number >= 1"),
        ("max_dynamic_batch_size=0", "'0' is not a whole number >= 1"),
        ("gpu.minWorkers=-1", "'-1' is not a whole number >= 0"),
        ("option.retry_on_crash=no", "'no' is not true or false"),
        ("option.predict_timeout=0", "'0' is not a number >= 0.001"),
        ("option.env=A", "'A' is not NAME=value; valid: NAME=value,NAME2=value2"),
        ("load_on_devices=nc0", f"'nc0' in 'nc0' is not a device; {DEVICES}"),
        ("option.intraOpNumThreads=0", "'0' is not a whole number >= 1"),
        ("option.intra_op_threads=2", "unknown; did you mean option.intra_op_num_threads?"),
        ("option.batch_size=2", "unknown; did you mean batch_size?"),
        ("qqqqqq=2", "unknown; no key is like it; docs/configuration.md lists them"),
    ],
)
def test_wrong_setting_is_refused_with_its_place_and_what_is_valid(line, problem):
    key = line.partition("=")[0]
    assert check(line).problems == (f"{key} (serving.properties:1): {problem}",)
    assert check(line).config is None


def test_all_problems_are_reported_together():
    assert (
        len(check("batch_size=x\nminWorkers=y\nnonsense_key=1\noption.intra_op_num_threads=z").problems) == 4
    )


def test_empty_value_of_an_optional_key_means_unset():
    built = config("option.shares_model=\noption.pythonExecutable=\nmaxWorkers=\nload_on_devices=")
    assert (built.shares_model, built.pythonExecutable, built.maxWorkers) == (None, None, None)
    assert built.load_on_devices == ("*",)


def test_empty_device_form_leaves_the_plain_one():
    built = config("maxWorkers=3\ngpu.maxWorkers=")
    assert worker_limits(built, "gpu", cores=8).maximum == 3
    assert built.per_device == {}


def test_alias_is_accepted_and_the_own_name_wins():
    assert config("max_dynamic_batch_size=4").batch_size == 4
    assert config("max_dynamic_batch_size=4\nbatch_size=2").batch_size == 2
    assert config("batch_size=2\nmax_dynamic_batch_size=4").batch_size == 2
    assert config("option.slots_per_group=1").slots_per_group == 1


def test_alias_in_a_stronger_layer_wins_over_the_name_in_a_weaker_one():
    assert config("max_dynamic_batch_size=4", environ={"ARGS_BATCH_SIZE": "8"}).batch_size == 4


# Kind (b): known to DJL Serving, without a meaning here.


@pytest.mark.parametrize("unused", UNUSED_MODEL_KEYS, ids=lambda unused: unused.name)
def test_unused_key_is_accepted_with_one_warning_that_says_what_to_use(unused):
    plain = EngineSpec(name="plain", api=(1, 1), target="x:X")
    built = config(f"{unused.name}=x", spec=plain)
    (warning,) = built.warnings
    assert warning.startswith(f"{unused.name} (serving.properties:1): has no meaning for the engine plain; ")
    assert warning.endswith(unused.instead)
    assert built.properties == {unused.name.removeprefix("option."): "x"}


def test_key_that_handlers_read_is_no_warning_when_options_are_open():
    built = config("option.model_id=gpt2\noption.dtype=fp16\noption.tensor_parallel_degree=max", spec=PYTHON)
    assert built.warnings == ()
    assert built.properties == {"model_id": "gpt2", "dtype": "fp16", "tensor_parallel_degree": "max"}


def test_unused_key_that_no_handler_reads_warns_even_when_options_are_open():
    assert (
        "set batch_size and max_batch_delay" in config("option.rolling_batch=auto", spec=PYTHON).warnings[0]
    )


def test_unused_key_that_the_engine_declares_has_a_meaning():
    built = config("option.intraOpNumThreads=2")
    assert built.options == Options(intra_op_num_threads=2)
    assert built.option_strings == {"intra_op_num_threads": "2"}
    assert built.warnings == ()
    assert built.sources["option.intra_op_num_threads"].where == "serving.properties:1"


def test_neuron_forms_are_accepted_with_a_warning():
    assert config("nc.minWorkers=2").warnings == (
        "nc.minWorkers (serving.properties:1): there are no Neuron devices here; use cpu. or gpu.",
    )


# Kind (c): unknown options of an engine whose options are open; arguments.


def test_unknown_option_of_an_open_engine_is_passed_on():
    built = config("option.voice=alto", spec=PYTHON)
    assert (built.properties, built.warnings) == ({"voice": "alto"}, ())


def test_unknown_option_near_a_known_key_is_passed_on_with_a_warning():
    built = config("option.predict_timeuot=3", spec=PYTHON)
    assert built.properties == {"predict_timeuot": "3"}
    (warning,) = built.warnings
    assert warning.startswith("option.predict_timeuot (serving.properties:1): unknown, passed to the handler")
    assert warning.endswith("; did you mean option.predict_timeout?")


def test_arguments_are_passed_on_as_strings():
    built = config("width=224\nsynsetArtifact=names.txt")
    assert built.properties == {"width": "224", "synsetArtifact": "names.txt"}
    assert built.warnings == ()


def test_server_handled_options_reach_the_model_too_but_not_its_environment():
    built = config("option.predict_timeout=3\noption.env=TOKEN=secret\nbatch_size=2\ngpu.minWorkers=1")
    assert built.properties == {"predict_timeout": "3"}


# Kind (d).


def test_unknown_key_without_prefix_is_refused_for_open_engines_as_well():
    assert "did you mean batch_size?" in check("bacth_size=2", spec=PYTHON).problems[0]


def test_lenient_turns_unknown_keys_into_warnings_and_passes_them_on():
    built = config("bacth_size=2", lenient=True)
    assert built.warnings == (
        "bacth_size (serving.properties:1): unknown, ignored; did you mean batch_size?",
    )
    assert built.properties == {"bacth_size": "2"}


def test_lenient_does_not_accept_malformed_values():
    assert check("batch_size=x", lenient=True).problems


def test_unknown_option_of_the_environment_warns_since_it_speaks_to_all_models():
    (warning,) = config(environ={"OPTION_VOICE": "alto"}).warnings
    assert warning.startswith("option.voice (OPTION_VOICE): unknown, ignored")


# Precedence: flags, serving.properties, OPTION_* and ARGS_*, SERVING_*, config.properties, defaults.


def test_each_source_wins_over_the_ones_below_it():
    sources = {
        "flags": "batch_size=5",
        "text": "batch_size=4",
        "environ": {"ARGS_BATCH_SIZE": "3", "SERVING_BATCH_SIZE": "2"},
        "server_file": "batch_size=1",
    }
    assert config(**sources).batch_size == 5
    del sources["flags"]
    assert config(**sources).batch_size == 4
    assert config(**sources).sources["batch_size"] == Source("file", "serving.properties:1")
    del sources["text"]
    assert config(**sources).sources["batch_size"] == Source("env", "ARGS_BATCH_SIZE")
    del sources["environ"]["ARGS_BATCH_SIZE"]
    assert config(**sources).sources["batch_size"] == Source("env", "SERVING_BATCH_SIZE")
    del sources["environ"]["SERVING_BATCH_SIZE"]
    assert config(**sources).sources["batch_size"] == Source("file", "config.properties:1")
    del sources["server_file"]
    assert config(**sources).sources["batch_size"] == Source("default", "")


def test_time_outs_of_the_environment_are_defaults():
    environ = {"PREDICT_TIMEOUT": "9", "MODEL_LOADING_TIMEOUT": "8"}
    built = config(environ=environ)
    assert (built.predict_timeout, built.model_loading_timeout) == (9.0, 8.0)
    assert built.sources["option.predict_timeout"] == Source("env", "PREDICT_TIMEOUT")
    assert config("option.predict_timeout=7", environ=environ).predict_timeout == 7.0
    assert config(environ={**environ, "OPTION_PREDICT_TIMEOUT": "6"}).predict_timeout == 6.0


def test_worker_numbers_of_the_environment_fill_what_the_file_leaves_out():
    environ = {"SERVING_MIN_WORKERS": "2", "SERVING_MAX_WORKERS": "4"}
    built = config("maxWorkers=3", environ=environ)
    assert (built.minWorkers, built.maxWorkers) == (2, 3)
    assert built.sources["minWorkers"] == Source("env", "SERVING_MIN_WORKERS")


def test_python_executable_of_the_environment_is_used():
    assert config(environ={"PYTHON_EXECUTABLE": "/opt/py"}).pythonExecutable == "/opt/py"


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("OPTION_ENTRYPOINT", "option.entryPoint"),
        ("OPTION_PYTHONEXECUTABLE", "option.pythonExecutable"),
        ("OPTION_INTRA_OP_NUM_THREADS", "option.intra_op_num_threads"),
        ("OPTION_VOICE_2", "option.voice_2"),
        ("OPTION_myVoice", "option.myVoice"),
        ("OPTION_ENGINE", "engine"),
        ("ARGS_MINWORKERS", "minWorkers"),
        ("ARGS_TOPK", "topK"),
        ("ARGS_FOO", "foo"),
    ],
)
def test_variable_becomes_the_key_it_means(variable, key):
    layer = environment_layer({variable: "1", "OTHER": "2", "OPTION_": "3"}, ["option.intra_op_num_threads"])
    assert {name: item.source for name, item in layer.items()} == {key: Source("env", variable)}


def test_empty_variables_do_not_count():
    assert environment_layer({"OPTION_VOICE": "", "SERVING_MIN_WORKERS": ""}, []) == {}


# Numbers of workers and memory.


@pytest.mark.parametrize(
    ("text", "device", "limits"),
    [
        ("", "cpu", (1, 8)),
        ("", "gpu", (1, 1)),
        ("minWorkers=3", "gpu", (3, 3)),
        ("minWorkers=16", "cpu", (16, 16)),
        ("minWorkers=4\nmaxWorkers=2", "cpu", (2, 2)),
        ("maxWorkers=2\ngpu.maxWorkers=5\ngpu.minWorkers=4", "gpu", (4, 5)),
        ("maxWorkers=2\ngpu.maxWorkers=5\ngpu.minWorkers=4", "cpu", (1, 2)),
    ],
)
def test_workers_of_a_device_follow_its_type(text, device, limits):
    found = worker_limits(config(text), device, cores=8)
    assert (found.minimum, found.maximum) == limits


@pytest.mark.parametrize(("threads", "maximum"), [(1, 8), (3, 2), (8, 1), (100, 1), (0, 8)])
def test_threads_of_a_worker_divide_the_cores(threads, maximum):
    assert worker_limits(config(), "cpu", cores=8, omp_num_threads=threads).maximum == maximum


def test_minimum_above_the_maximum_is_a_warning():
    assert config("minWorkers=4\nmaxWorkers=2").warnings == (
        "minWorkers (serving.properties:1): 4 is more than maxWorkers; 2 are used",
    )
    assert config("maxWorkers=2\ngpu.minWorkers=4").warnings == (
        "gpu.minWorkers (serving.properties:2): 4 is more than gpu.maxWorkers; 2 are used",
    )
    assert config("minWorkers=4\ngpu.maxWorkers=2").warnings == (
        "gpu.minWorkers (serving.properties:1): 4 is more than gpu.maxWorkers; 2 are used",
    )


def test_memory_of_a_device_follows_its_type():
    built = config("required_memory_mb=10\ngpu.required_memory_mb=20\ngpu.reserved_memory_mb=30")
    on_cpu, on_gpu = memory_needs(built, "cpu"), memory_needs(built, "gpu")
    assert (on_cpu.required_mb, on_cpu.reserved_mb) == (10, 500)
    assert (on_gpu.required_mb, on_gpu.reserved_mb) == (20, 30)


def test_a_budget_of_elements_lifts_the_default_count_but_not_one_that_was_given():
    assert config("max_batch_elements=100").batch_size == 1024
    assert config("max_batch_elements=100\nbatch_size=4").batch_size == 4

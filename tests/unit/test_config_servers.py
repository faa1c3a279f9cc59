"""The server's settings: flags over environment over file over defaults, and every kind of key."""

from dataclasses import fields

import pytest
from frame.config.properties import parse_properties
from frame.config.server_keys import SERVER_KEYS, UNUSED_SERVER_KEYS, UNUSED_VARIABLES
from frame.config.servers import build_server_config
from frame.config.settings import ServerConfig, Source
from frame.errors import ConfigError

MIB = 2**20


def build(text="", *, flags=None, environ=None, lenient=False, memory_bytes=400 * MIB) -> ServerConfig:
    return build_server_config(
        parse_properties(text, "config.properties"),
        "config.properties",
        flags or {},
        environ or {},
        lenient=lenient,
        memory_bytes=memory_bytes,
    )


def test_every_key_of_the_table_is_an_attribute():
    assert {key.name for key in SERVER_KEYS} <= {item.name for item in fields(ServerConfig)}


def test_defaults_are_those_of_the_table():
    built = build()
    derived = {"management_address", "max_queued_bytes", "async_result_max_bytes"}
    for key in SERVER_KEYS:
        if key.name not in derived:
            assert getattr(built, key.name) == key.default, key.name
        assert built.sources[key.name] == Source("default", "")
    assert built.management_address == built.inference_address
    assert (built.host, built.port) == ("127.0.0.1", 8080)
    assert built.warnings == ()


@pytest.mark.parametrize(("memory", "limit"), [(400 * MIB, 100 * MIB), (64 * 1024 * MIB, 1024 * MIB)])
def test_queued_bytes_are_a_quarter_of_the_memory_up_to_a_gibibyte(memory, limit):
    built = build(memory_bytes=memory)
    assert (built.max_queued_bytes, built.async_result_max_bytes) == (limit, limit // 4)


def test_flag_wins_over_variable_wins_over_file():
    text, environ, flags = "batch_size=2", {"SERVING_BATCH_SIZE": "3"}, {"batch_size": "4"}
    assert build(text).sources["batch_size"] == Source("file", "config.properties:1")
    assert build(text, environ=environ).sources["batch_size"] == Source("env", "SERVING_BATCH_SIZE")
    built = build(text, environ=environ, flags=flags)
    assert (built.batch_size, built.sources["batch_size"]) == (4, Source("flag", "--batch-size"))


def test_prefixed_variable_wins_over_the_plain_one():
    environ = {"SERVING_PREDICT_TIMEOUT": "2", "PREDICT_TIMEOUT": "1"}
    assert build(environ=environ).predict_timeout == 2.0
    assert build(environ={"PREDICT_TIMEOUT": "1"}).sources["predict_timeout"] == Source(
        "env", "PREDICT_TIMEOUT"
    )


def test_empty_variables_do_not_count():
    assert build(environ={"SERVING_BATCH_SIZE": ""}).batch_size == 1


def test_host_and_port_change_their_part_of_the_address():
    text = "inference_address=https://0.0.0.0:8443"
    built = build(text, flags={"port": "0"})
    assert str(built.inference_address) == "https://0.0.0.0:0"
    assert (built.sources["host"].where, built.sources["port"].where) == ("config.properties:1", "--port")
    assert str(build(text, flags={"host": "[::1]"}).inference_address) == "https://[::1]:8443"


def test_host_and_port_replace_a_unix_socket():
    built = build("inference_address=unix:/run/s", flags={"port": "9000"})
    assert str(built.inference_address) == "http://127.0.0.1:9000"
    assert build("inference_address=unix:/run/s").host == ""


def test_port_is_checked():
    with pytest.raises(ConfigError, match=r"port \(--port\): '65536' is not a whole number from 0 to 65535"):
        build(flags={"port": "65536"})


def test_host_is_no_key_of_the_file():
    with pytest.raises(ConfigError, match=r"host \(config.properties:1\): unknown"):
        build("host=0.0.0.0")


def test_management_address_may_be_another():
    assert build("management_address=http://127.0.0.1:8081").management_address.port == 8081


def test_all_problems_are_reported_together_with_their_lines():
    with pytest.raises(ConfigError) as caught:
        build(
            "batch_size=x\nhttp_server=nginx\nbad_request_http_code=200\njob_queue_sise=1\nkeystore_type=JKS"
        )
    assert str(caught.value).splitlines() == [
        "http_server (config.properties:2): 'nginx' is not one of hypercorn, uvicorn",
        "batch_size (config.properties:1): 'x' is not a whole number >= 1",
        "keystore_type (config.properties:5): 'JKS' is not one of PKCS12",
        "bad_request_http_code (config.properties:3): '200' is not a whole number from 400 to 599",
        "job_queue_sise (config.properties:4): unknown; did you mean job_queue_size?",
    ]


def test_unknown_key_without_a_near_one_says_where_they_are_listed():
    with pytest.raises(ConfigError, match=r"docs/configuration\.md lists them"):
        build("qqqqqq=1")


def test_lenient_turns_unknown_keys_into_warnings():
    assert build("job_queue_sise=1", lenient=True).warnings == (
        "job_queue_sise (config.properties:1): unknown, ignored; did you mean job_queue_size?",
    )


@pytest.mark.parametrize("unused", UNUSED_SERVER_KEYS, ids=lambda unused: unused.name)
def test_unused_key_is_accepted_with_one_warning(unused):
    expected = f"{unused.name} (config.properties:1): has no meaning here; {unused.instead}"
    assert build(f"{unused.name}=1").warnings == (expected,)
    variable = f"SERVING_{unused.name.upper()}"
    assert build(environ={variable: "1"}).warnings == (f"{variable}: has no meaning here; {unused.instead}",)


@pytest.mark.parametrize("unused", UNUSED_VARIABLES, ids=lambda unused: unused.name)
def test_unused_variable_is_one_warning(unused):
    assert build(environ={unused.name: "1"}).warnings == (
        f"{unused.name}: has no meaning here; {unused.instead}",
    )


def test_unknown_variable_warns_and_refuses_nothing():
    assert build(environ={"SERVING_BATCH_SIZ": "1"}).warnings == (
        "SERVING_BATCH_SIZ: unknown, ignored; did you mean SERVING_BATCH_SIZE?",
    )
    assert build(environ={"SERVING_0000": "1"}).warnings == ("SERVING_0000: unknown, ignored",)


def test_variables_of_models_are_known():
    assert build(environ={"SERVING_MIN_WORKERS": "1", "SERVING_MAX_WORKERS": "2"}).warnings == ()


def test_key_and_certificate_come_together():
    with pytest.raises(ConfigError, match="give both or none"):
        build("private_key_file=key.pem")
    assert build("private_key_file=key.pem\ncertificate_file=cert.pem").certificate_file == "cert.pem"


def test_request_id_header_is_lower_case():
    assert build("request_id_header_key=X-Amzn-Id").request_id_header_key == "x-amzn-id"


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "6"}, 6 << 20),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "6", "SAGEMAKER_MAX_REQUEST_SIZE": "7"}, 7),
        ({"SAGEMAKER_MAX_REQUEST_SIZE": "7", "SERVING_MAX_REQUEST_SIZE": "8"}, 8),
    ],
)
def test_the_platforms_variables_are_settings(environ, size):
    assert build("", environ=environ).max_request_size == size


def test_a_payload_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB"):
        build("", environ={"SAGEMAKER_MAX_PAYLOAD_IN_MB": "six"})

"""Reading configuration files."""

import pytest
from frame.config import files
from frame.config.files import available_memory_bytes, load_server_config, read_properties
from frame.errors import ConfigError


def test_named_file_is_read(tmp_path):
    file = tmp_path / "my.properties"
    file.write_text("batch_size=4\n")
    config = load_server_config(str(file), {}, {})
    assert (config.batch_size, config.sources["batch_size"].where) == (4, f"{file}:1")


def test_named_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_server_config(str(tmp_path / "none"), {}, {})


def test_home_is_searched_in_its_conf_folder_first(tmp_path):
    environ = {"MODEL_SERVER_HOME": str(tmp_path)}
    assert load_server_config(None, {}, environ).batch_size == 1
    (tmp_path / "config.properties").write_text("batch_size=2")
    assert load_server_config(None, {}, environ).batch_size == 2
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.properties").write_text("batch_size=3")
    assert load_server_config(None, {}, environ).batch_size == 3


def test_an_endpoint_of_sagemaker_has_its_own_request_id(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ENDPOINT_FILE", tmp_path / "endpoint-metadata.json")
    assert load_server_config(None, {}, {}).request_id_header_key == "x-request-id"
    (tmp_path / "endpoint-metadata.json").touch()
    assert load_server_config(None, {}, {}).request_id_header_key == "x-amzn-sagemaker-inference-id"
    environ = {"SERVING_REQUEST_ID_HEADER_KEY": "x-own"}
    assert load_server_config(None, {}, environ).request_id_header_key == "x-own"


def test_no_file_and_no_home_is_no_error():
    assert load_server_config(None, {"batch_size": "5"}, {}).batch_size == 5


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"\xef\xbb\xbfengine=onnx")
    assert read_properties(file, "f")[0].key == "engine"


def test_other_encoding_is_refused_with_its_line(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"a=1\nb=caf\xe9\n")
    with pytest.raises(ConfigError, match=r"serving\.properties:2: not UTF-8"):
        read_properties(file, "serving.properties")


def test_huge_file_is_refused(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="this is no file of settings"):
        read_properties(file, "f")


def test_memory_is_the_lesser_of_machine_and_container(tmp_path):
    machine = available_memory_bytes(tmp_path / "none")
    assert machine > 2**20
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    assert available_memory_bytes(limit) == 2**20
    limit.write_text("max\n")
    assert available_memory_bytes(limit) == machine

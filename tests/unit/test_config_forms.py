"""Addresses, device lists, variables."""

import pytest
from frame.config.forms import Address, parse_address, parse_devices, parse_variables


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://127.0.0.1:8080", Address(scheme="http", host="127.0.0.1", port=8080)),
        ("https://models.example", Address(scheme="https", host="models.example", port=443)),
        ("http://localhost/", Address(scheme="http", host="localhost", port=80)),
        ("http://[::1]:0", Address(scheme="http", host="::1", port=0)),
        ("unix:/run/frame.sock", Address(scheme="unix", path="/run/frame.sock")),
        ("unix:///run/frame.sock", Address(scheme="unix", path="/run/frame.sock")),
    ],
)
def test_address_is_read(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8080", "http://", "ftp://h", "http://h:65536", "http://h:x", "unix:x", ""]
)
def test_what_is_no_address_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match="is not an address; valid: http://host"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("*", ("*",)),
        ("", ("*",)),
        ("cpu", ("cpu",)),
        ("-1", ("cpu",)),
        ("0;gpu1", ("gpu0", "gpu1")),
        ("gpu0+gpu1; gpu2", ("gpu0+gpu1", "gpu2")),
    ],
)
def test_devices_become_canonical(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["nc0", "gpu", "0;;1", "cuda:0", "-2"])
def test_what_is_no_device_is_refused(text):
    with pytest.raises(ValueError, match="is not a device; valid:"):
        parse_devices(text)


def test_variables_are_read_in_order():
    assert dict(parse_variables("A=1, B_2 = x=y,")) == {"A": "1", "B_2": "x=y"}


@pytest.mark.parametrize("text", ["A", "=1", "2A=1", "A=1,B"])
def test_what_is_no_variable_is_refused(text):
    with pytest.raises(ValueError, match="is not NAME=value"):
        parse_variables(text)

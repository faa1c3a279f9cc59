"""Entries of the startup list, names and schemes."""

import pytest
from frame.errors import StoreError
from frame.store.urls import (
    ModelUrl,
    local_path,
    model_name,
    parse_model_url,
    path_stem,
    scheme_of,
    split_model_list,
)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("mlp", (None, None, None, None, "mlp", {})),
        ("mlp=/m/mlp", ("mlp", None, None, None, "/m/mlp", {})),
        ("mlp:v1:PyTorch:0;1=file:/x", ("mlp", "v1", "PyTorch", "0;1", "file:/x", {})),
        ("[mlp:v1]=x.zip", ("mlp", "v1", None, None, "x.zip", {})),
        ("test::Python=file:///m.zip", ("test", None, "Python", None, "file:///m.zip", {})),
        ("m.zip?topK=1&width=8", (None, None, None, None, "m.zip", {"topK": "1", "width": "8"})),
        ("m=m.zip?topK=", ("m", None, None, None, "m.zip", {"topK": ""})),
        ("/data/a=b/model", (None, None, None, None, "/data/a=b/model", {})),
        ("file:///m.zip?a=b", (None, None, None, None, "file:///m.zip", {"a": "b"})),
    ],
)
def test_entry_is_read(text, fields):
    names = ("name", "version", "engine", "devices", "location", "arguments")
    assert parse_model_url(text) == ModelUrl(text=text, **dict(zip(names, fields, strict=True)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b=x", "'a b' is no name"),
        ("a:v 1=x", "'v 1' is no version"),
        ("a:b:c:d:e=x", "more than name:version:engine:devices"),
        ("a=", "no path or URL; write NAME=PATH"),
        ("", "no path or URL"),
        ("?a=b", "no path or URL"),
    ],
)
def test_malformed_entry_says_what_is_wrong(text, message):
    with pytest.raises(StoreError, match=message):
        parse_model_url(text)


def test_list_is_split_at_commas_and_white_space():
    assert split_model_list(" a=x, b=y\n c ,") == ["a=x", "b=y", "c"]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("models/a", "models/a"),
        ("/models/a", "/models/a"),
        ("file:/models/a", "/models/a"),
        ("file:///models/a%20b", "/models/a b"),
        ("file://localhost/models/a", "/models/a"),
        ("FILE:///m", "/m"),
        ("a:b", "a:b"),
    ],
)
def test_local_locations_are_paths(location, path):
    assert local_path(location) == path


@pytest.mark.parametrize(
    ("location", "scheme", "name"),
    [
        ("https://h/a/m.zip", "https", "m"),
        ("S3://bucket/m-1/", "s3", "m_1"),
        ("hf://owner/name@v1.0", "hf", "name"),
        ("https://h/m.tar.gz#sha256=00", "https", "m"),
        ("http://h/a%20b@c/my%20m.zip", "http", "my_m"),
        ("djl://ai/x", "djl", "x"),
        ("jar:file:/m!/x", "jar", "x"),
        ("/m/mlp.zip", "", "mlp"),
        ("file:///m/mlp@2.zip", "", "mlp_2"),
        ("a:b", "", "a_b"),
    ],
)
def test_urls_of_other_machines_have_a_scheme(location, scheme, name):
    assert (scheme_of(location), model_name(location)) == (scheme, name)
    if scheme:
        with pytest.raises(StoreError, match="no path, nor a file: url"):
            local_path(location)


@pytest.mark.parametrize(
    "url", ["https://user:secret@h/m.zip", "https://secret@h/m.zip", "s3://a:secret@b/m"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(StoreError, match="would be logged") as caught:
        parse_model_url(f"m={url}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1/m.zip", "cannot be read"),
        ("http://host:99999/m.zip", "cannot be read"),
        ("http://host:port/m.zip", "cannot be read"),
        ("http:///m.zip", "names no host"),
        ("https://host:0/m.zip", "names no host, or port 0"),
        ("https://b\u00fccher.example/m.zip", "is not ASCII"),
    ],
)
def test_an_address_that_is_none_is_refused(url, message):
    with pytest.raises(StoreError, match=message):
        parse_model_url(url)


def test_a_url_that_is_none_is_named_and_a_revision_is_no_user():
    with pytest.raises(StoreError, match="cannot be read"):
        parse_model_url("http://[x@y/m.zip")
    assert parse_model_url("hf://model@main").location == "hf://model@main"


@pytest.mark.parametrize(
    ("path", "stem", "name"),
    [
        ("/m/mlp.tar.gz", "mlp", "mlp"),
        ("/m/mlp.TGZ", "mlp", "mlp"),
        ("/m/gpt-j.v2.zip", "gpt-j.v2", "gpt_j_v2"),
        ("/m/net.mar/", "net", "net"),
        ("/m/net.onnx", "net.onnx", "net_onnx"),
        ("_hidden", "_hidden", "_hidden"),
        ("/m/modèle", "modèle", "mod_le"),
        ("/", "", "model"),
    ],
)
def test_names_come_from_the_last_segment(path, stem, name):
    assert (path_stem(path), model_name(path)) == (stem, name)

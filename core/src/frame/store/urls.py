"""Entries of the startup list: `[name[:version[:engine[:devices]]]=]url`, names and schemes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from frame.errors import StoreError

ARCHIVE_SUFFIXES = (".zip", ".mar", ".tar.gz", ".tgz", ".tar.z", ".tar")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?=/|file:)")
MODEL_ID = "option.model_id"
"""The option that may be a url, too."""
_NAME = re.compile(r"[\w.-]+")
_ENDPOINT_FIELDS = 4
_UNVERSIONED = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUrl:
    """One entry of the startup list; None where it leaves something to be inferred.

    Attributes:
        text: the entry as it was given.
        location: the URL without endpoint and query.
        arguments: the query, settings of this model.
    """

    text: str
    name: str | None
    version: str | None
    engine: str | None
    devices: str | None
    location: str
    arguments: Mapping[str, str]


def parse_model_url(text: str) -> ModelUrl:
    """Read one entry: `mlp`, `mlp:v1:onnx:gpu0;gpu1=/models/mlp.zip?batch_size=8`, `test::Python=file:///m.zip`.

    What stands before the first `=` is the endpoint, unless it has a `/` or a `?`: then it belongs to a path.

    Raises:
        StoreError: a field is malformed, or there is no URL.
    """
    endpoint, sign, url = text.strip().partition("=")
    if not sign or "/" in endpoint or "?" in endpoint:
        endpoint, url = "", text.strip()
    fields = endpoint.removeprefix("[").removesuffix("]").split(":")
    if len(fields) > _ENDPOINT_FIELDS:
        message = f"{text}: more than name:version:engine:devices before the ="
        raise StoreError(message)
    name, version, engine, devices = (fields + [""] * _ENDPOINT_FIELDS)[:_ENDPOINT_FIELDS]
    for what, value in (("name", name), ("version", version)):
        if value and not _NAME.fullmatch(value):
            message = f"{text}: {value!r} is no {what}; letters, digits, _, . and - are allowed"
            raise StoreError(message)
    if version == _UNVERSIONED:
        raise StoreError(f"{text}: {version} is what a model without a version is called; leave it out")
    location, _, query = url.partition("?")
    _check_address(location)
    if not location:
        message = f"{text}: no path or URL; write NAME=PATH"
        raise StoreError(message)
    return ModelUrl(
        text=text,
        name=name or None,
        version=version or None,
        engine=engine or None,
        devices=devices or None,
        location=location,
        arguments=MappingProxyType(dict(parse_qsl(query, keep_blank_values=True))),
    )


def _check_address(location: str) -> None:
    """Raise `StoreError` unless a url can be read and has no user part.

    The `@` of a hub's repository is before a revision.
    """
    scheme = scheme_of(location)
    if not scheme:
        return
    is_web = scheme in {"http", "https"}
    try:
        parts = urlsplit(location)
        is_complete = not is_web or (bool(parts.hostname) and parts.port != 0)
        is_plain = not is_web or parts.netloc.isascii()
    except ValueError as error:
        raise StoreError(f"a url cannot be read: {error}") from error
    if parts.password is not None or (parts.username is not None and is_web):
        raise StoreError("a url has a user and a password; it would be logged, so give them another way")
    if not is_complete:
        raise StoreError("a url names no host, or port 0")
    if not is_plain:  # what a resolver takes its letters for is not what they look like
        raise StoreError("a url's host is not ASCII; write an international name as xn--…")


def is_allowed(text: str, allowed: re.Pattern[str]) -> bool:
    """Tell whether a url, or what stands for one, matches `model_url_pattern` as a whole; none with `..`."""
    is_up = ".." in re.split(r"[/=?\\]", unquote(text))
    return not is_up and allowed.fullmatch(text) is not None


def split_model_list(text: str) -> list[str]:
    """Split `load_models`: entries are separated by commas or white space."""
    return [entry for entry in re.split(r"[,\s]+", text) if entry]


def local_path(location: str) -> str:
    """Return the path that a location without scheme, or with `file:`, means.

    Raises:
        StoreError: another scheme.
    """
    match = _SCHEME.match(location)
    path = location
    if match:
        if match["scheme"].lower() != "file":
            raise StoreError(f"{location}: no path, nor a file: url")
        path = "/" + unquote(location[match.end() :]).removeprefix("//localhost").lstrip("/")
    return path


def scheme_of(location: str) -> str:
    """Return the scheme of a url to another machine, in lower case; empty for a path or `file:`."""
    match = _SCHEME.match(location)
    scheme = match["scheme"].lower() if match else ""
    return "" if scheme == "file" else scheme


def path_stem(path: str) -> str:
    """Return the last segment of a path without the suffix of an archive: `<prefix>` of model files."""
    segment = path.rstrip("/").rsplit("/", 1)[-1]
    if scheme_of(path):
        segment = unquote(re.split("[@#]", segment, maxsplit=1)[0])
    lowered = segment.lower()
    suffix = next((end for end in ARCHIVE_SUFFIXES if lowered.endswith(end)), "")
    return segment[: len(segment) - len(suffix)]


def is_archive_name(path: str) -> bool:
    """Tell whether a file's name is that of an archive."""
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def model_name(path: str) -> str:
    """Return the name of the model at a path, as DJL Serving infers it: what is no letter or digit is `_`."""
    return re.sub(r"\W", "_", path_stem(path), flags=re.ASCII) or "model"

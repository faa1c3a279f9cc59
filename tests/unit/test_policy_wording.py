"""What clients are told of a failure: the file's name, not where it lies."""

from __future__ import annotations

import pytest
from frame.policy.wording import without_other_places, without_places


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Load model from /srv/store/m/model.onnx failed", "Load model from model.onnx failed"),
        ("pip: file:///opt/index/six/ and https://user:pw@host/simple", "pip: <address> and <address>"),
        ("'/a b/model.pt' is missing", "'/a b/model.pt' is missing"),
        ("and/or 3/4 of text/plain", "and/or 3/4 of text/plain"),
        ("(/tmp/x/y.zip): truncated", "(y.zip): truncated"),
    ],
)
def test_folders_and_addresses_are_left_out(text: str, shown: str) -> None:
    assert without_places(text) == shown


@pytest.mark.parametrize(
    ("text", "given", "shown"),
    [
        ("/srv/store/m.zip: broken", "m.zip", "m.zip: broken"),
        ("/home/me/m.zip: broken; see /srv/cache/x", "/home/me/m.zip", "/home/me/m.zip: broken; see x"),
        ("http://h/m.zip: no http://10.0.0.1/x", "http://h/m.zip", "http://h/m.zip: no <address>"),
        ("/srv/m/x: wrong", "/", "x: wrong"),
        ("/srv/m/s: wrong", "s", "s: wrong"),
    ],
)
def test_what_the_client_named_itself_stays(text: str, given: str, shown: str) -> None:
    assert without_other_places(text, given) == shown

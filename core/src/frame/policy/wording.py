"""What of an error's text a client may see."""

from __future__ import annotations

import re

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_FOLDERS = re.compile(r"(?<![\w.~])/(?:[^\s/'\":;,()<>]+/)+")
_GIVEN = "\0"  # stands for what the client gave; no text has it


def without_places(text: str) -> str:
    """Return `text` without the server's folders and addresses: file names stay, what leads to them goes."""
    return _FOLDERS.sub("", _URL.sub("<address>", text))


def without_other_places(text: str, given: str) -> str:
    """Return `text` without the server's folders and addresses, but with the one that the client named."""
    if not given.strip("/"):  # the slashes of all others would stay
        return without_places(text)
    return without_places(text.replace(given, _GIVEN)).replace(_GIVEN, given)

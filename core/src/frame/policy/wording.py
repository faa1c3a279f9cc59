"""What of an error's text a client may see."""

from __future__ import annotations

import re

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_FOLDERS = re.compile(r"(?<![\w.~])/(?:[^\s/'\":;,()<>]+/)+")


def without_places(text: str) -> str:
    """Return `text` without the server's folders and addresses: file names stay, what leads to them goes."""
    return _FOLDERS.sub("", _URL.sub("<address>", text))

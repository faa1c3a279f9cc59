"""What may be registered over HTTP, where it is restricted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from frame.errors import BadRequestError
from frame.http.host import Registration
from frame.store.urls import MODEL_ID, is_allowed, local_path, parse_model_url

_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)


def check_allowed(wanted: Registration, allowed: re.Pattern[str]) -> None:
    """Raise `BadRequestError` unless a registration's url, and the weights beside it, match as a whole.

    A `..` is refused: `file:///models/.*` does not mean what is beside that folder.
    """
    if not is_allowed(wanted.url, allowed):
        raise BadRequestError("Parameter url: it does not match model_url_pattern.")
    check_model_id({**parse_model_url(wanted.url).arguments, **wanted.settings}, allowed)


def check_model_id(settings: Mapping[str, str], allowed: re.Pattern[str]) -> None:
    """Raise `BadRequestError` unless the weights that settings name, if they do, match as a whole."""
    named = settings.get(MODEL_ID)
    if named and not is_allowed(named, allowed):
        raise BadRequestError(f"Parameter {MODEL_ID}: it does not match model_url_pattern.")


def below(wanted: Registration, folder: Path) -> Registration:
    """Return what SageMaker's multi-model contract lets anybody register: a real path below a folder.

    Raises:
        BadRequestError: it is another path, or more than a url and a name is given.
    """
    url = parse_model_url(wanted.url)
    fields = (url.name, url.version, url.engine, url.devices, wanted.version)
    if wanted.settings or url.arguments or any(fields):
        raise BadRequestError(
            "With multi_model only url and model_name may be given; the folder has the rest."
        )
    path = Path(os.path.realpath(local_path(url.location)))
    if not path.is_relative_to(os.path.realpath(folder)) or path == Path(os.path.realpath(folder)):
        raise BadRequestError(f"Parameter url: with multi_model it must be a path below {folder}.")
    if _PLAIN_PATH.fullmatch(str(path)) is None:  # it is read as a url again: other signs have a meaning
        raise BadRequestError("Parameter url: with multi_model letters, digits, /, _, . and - are allowed.")
    return replace(wanted, url=str(path))

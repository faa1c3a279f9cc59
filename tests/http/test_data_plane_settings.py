"""What config.properties changes in answers to inference requests."""

from __future__ import annotations

import pytest
from frame.config.files import load_server_config
from frame.http.settings import DataPlaneSettings, data_plane_settings


def settings(**variables: str) -> DataPlaneSettings:
    """Return the settings of a server with these variables."""
    return data_plane_settings(load_server_config(None, {}, variables, lenient=False))


@pytest.mark.parametrize(
    ("variable", "error", "status"),
    [
        ("SERVING_BAD_REQUEST_HTTP_CODE", "BadRequestError", 422),
        ("SERVING_WLM_ERROR_HTTP_CODE", "ModelNotReadyError", 530),
        ("SERVING_THROTTLE_ERROR_HTTP_CODE", "CapacityError", 429),
    ],
)
def test_status_of_an_error_is_a_setting(variable: str, error: str, status: int) -> None:
    assert settings(**{variable: str(status)}).status_of(error, 400) == status
    assert settings().status_of(error, 400) == 400


def test_status_of_every_server_error_is_a_setting() -> None:
    changed = settings(SERVING_SERVER_ERROR_HTTP_CODE="599")
    assert changed.status_of("LoadError", 500) == 599
    assert changed.status_of("ModelNotFoundError", 404) == 404
    assert settings().status_of("LoadError", 500) == 500


def test_limits_and_the_id_header_are_settings() -> None:
    changed = settings(
        SERVING_CHUNKED_READ_TIMEOUT="7",
        SERVING_MAX_REQUEST_SIZE="9",
        SERVING_REQUEST_ID_HEADER_KEY="X-Trace",
    )
    assert (changed.chunk_timeout, changed.max_request_size, changed.request_id_header) == (
        7.0,
        9,
        b"x-trace",
    )

"""What the data plane needs of the server's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from frame.config.settings import ServerConfig

_CONFIGURABLE = {
    "BadRequestError": "bad_request_http_code",
    "ModelNotReadyError": "wlm_error_http_code",
    "WorkerDiedError": "wlm_error_http_code",
    "QuarantinedError": "wlm_error_http_code",
    "PredictTimeoutError": "wlm_error_http_code",
    "CapacityError": "throttle_error_http_code",
}
"""Error types whose status config.properties may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneSettings:
    """Limits and codes. Times in seconds.

    Attributes:
        body_timeout: for the whole body of a request.
        chunk_timeout: for each chunk of a stream, to come from the model and to be taken by the client.
        async_result_max_bytes, async_result_expiry: of answers that clients fetch later, and how long.
        sweep_interval: how often slow bodies and vanished clients are looked for.
        server_error: in place of 500.
        statuses: by error type, where the operator changed them.
    """

    max_request_size: int
    request_id_header: bytes
    chunk_timeout: float
    async_result_max_bytes: int = 64 << 20
    async_result_expiry: float = 3600.0
    body_timeout: float = 60.0
    sweep_interval: float = 0.1
    default_codec: str = "frame.worker.codecs.djl"
    server_error: int = 500
    statuses: dict[str, int] = field(default_factory=dict)

    def status_of(self, type_name: str, status: int) -> int:
        """Return the status that the operator wants for an error."""
        changed = self.statuses.get(type_name, status)
        return self.server_error if changed == 500 else changed  # noqa: PLR2004


def data_plane_settings(config: ServerConfig) -> DataPlaneSettings:
    """Return the data plane's part of the configuration."""
    changed = {
        error: getattr(config, key)
        for error, key in _CONFIGURABLE.items()
        if key in config.sources and config.sources[key].kind != "default"
    }
    return DataPlaneSettings(
        max_request_size=config.max_request_size,
        request_id_header=config.request_id_header_key.lower().encode(),
        chunk_timeout=config.chunked_read_timeout,
        async_result_max_bytes=config.async_result_max_bytes,
        async_result_expiry=config.async_result_expiry,
        server_error=config.server_error_http_code,
        statuses=changed,
    )

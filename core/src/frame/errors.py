"""Frame's errors: each class is one HTTP status and one exit code, and says who can fix it."""

from __future__ import annotations


class FrameError(Exception):
    """Base of all errors that Frame raises on purpose."""

    status = 500
    exit_code = 1
    retry_after: float | None = None
    """Seconds after which the same request may succeed; None when that is not known."""

    @property
    def type_name(self) -> str:
        """The `type` field of the error body."""
        return type(self).__name__


class ConfigError(FrameError):
    """A setting is malformed or unknown: whoever wrote the configuration can fix it."""

    status = 400
    exit_code = 1


class StoreError(FrameError):
    """The model store or an archive cannot be used: whoever filled the store can fix it."""

    status = 400
    exit_code = 1


class PluginError(FrameError):
    """A plugin is broken or missing: whoever installed it can fix it."""

    status = 500
    exit_code = 1


class BadRequestError(FrameError):
    """The request is wrong: its client can fix it."""

    status = 400


class ModelNotFoundError(FrameError):
    """No model of that name and version: the client or whoever fills the store can fix it."""

    status = 404


class ModelExistsError(FrameError):
    """A model of that name and version is there already: the client can fix it."""

    status = 409


class ResourceNotFoundError(FrameError):
    """No such route: the client can fix it."""

    status = 404


class MethodNotAllowedError(FrameError):
    """The route exists, the method does not: the client can fix it."""

    status = 405


class PayloadTooLargeError(FrameError):
    """The body is over `max_request_size`: the client, or the operator, can fix it."""

    status = 413


class HandlerError(FrameError):
    """The model's own code failed on this request: the model's author can fix it."""

    status = 424


class ModelNotReadyError(FrameError):
    """The model is not (or no longer) ready: the operator can fix it, or time."""

    status = 503


class CapacityError(FrameError):
    """The queue is full in count or bytes: try again after `retry_after` seconds."""

    status = 503

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WorkerDiedError(FrameError):
    """The worker died with this request, and it is not run again: the model's author can fix it."""

    status = 503


class QuarantinedError(FrameError):
    """The request ended two workers and is refused for `quarantine_time`: the model's author can fix it."""

    status = 503

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PredictTimeoutError(FrameError):
    """No answer within the request's time: its client, the operator or the model's author can fix it."""

    status = 503


class OutOfMemoryError(FrameError):
    """Memory was not enough: the operator can fix it."""

    status = 507


class LoadError(FrameError):
    """A model did not load; says at which stage and why: the model's author can fix it."""

    status = 500

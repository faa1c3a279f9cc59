"""Results of `predict` as heads of answer messages; exceptions as `RequestError`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from frame.contract.requests import Buffer, Part, RequestError, Response
from frame.wire.messages import AnswerHead
from frame.worker.channel import place_parts

_log = logging.getLogger(__name__)
_FIRST_STATUS, _FIRST_ERROR, _LAST_STATUS = 200, 400, 599
_MEMORY_TEXTS = (
    "CUDA error: out of memory",
    "CUDA out of memory",
    "No available memory for the cache blocks",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out (DJL's test: class name or text)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(
        text in str(error) for text in _MEMORY_TEXTS
    )


def as_request_error(error: Exception) -> RequestError:
    """Turn what a model raised into the answer of its requests: 507 for memory, 424 for all else."""
    if isinstance(error, RequestError):
        return error
    if is_out_of_memory(error):
        return RequestError(507, str(error) or "out of memory", type_name="OutOfMemoryError")
    return RequestError(424, f"{type(error).__name__}: {error}", type_name="HandlerError")


def error_head(job: int, error: RequestError) -> tuple[AnswerHead, list[Buffer]]:
    """Return head and body of a failed job."""
    status = (
        error.status
        if isinstance(error.status, int) and _FIRST_ERROR <= error.status <= _LAST_STATUS
        else 424
    )
    head = AnswerHead(
        id=job, status=status, message=_clean(error.message), properties=_clean_properties(error.properties)
    )
    if error.body is None:
        head.type_name = _clean(error.type_name)
        return head, []
    body = _bytes_of(error.body)
    head.parts = place_parts([Part("data", body)])
    return head, [body]


def response_head(job: int, response: Response) -> tuple[AnswerHead, list[Buffer]]:
    """Return head and body of an answered job: the part `data`, else the first (DJL's rule).

    Raises:
        TypeError, ValueError: the model made an answer that HTTP cannot carry.
    """
    status = response.status
    if not isinstance(status, int) or not _FIRST_STATUS <= status <= _LAST_STATUS:
        raise ValueError(f"status {status!r} is not from {_FIRST_STATUS} to {_LAST_STATUS}")
    head = AnswerHead(
        id=job, status=int(status), message=_clean(response.message),
        properties=_clean_properties(response.properties),
    )  # fmt: skip
    parts = [part for part in response.parts if part.key == "data"][:1] or list(response.parts[:1])
    bodies = [_bytes_of(part.data) for part in parts]
    head.parts = place_parts([Part("data", body) for body in bodies])
    return head, bodies


def answer_head(job: int, item: Response | RequestError) -> tuple[AnswerHead, list[Buffer]]:
    """Return head and body of a job; an answer that cannot be sent becomes a 424 of that job alone."""
    try:
        return error_head(job, item) if isinstance(item, RequestError) else response_head(job, item)
    except Exception as error:  # noqa: BLE001  # fault line: around one request
        _log.exception("answer_invalid job=%d", job)
        message = f"the model's answer cannot be sent: {type(error).__name__}: {error}"
        return error_head(job, RequestError(424, message, type_name="HandlerError"))


def as_bytes(data: Buffer) -> Buffer:
    """Return a chunk of a stream as flat bytes.

    Raises:
        TypeError: it is none.
    """
    return _bytes_of(data)


def _bytes_of(data: Buffer) -> Buffer:
    if isinstance(data, (bytes, bytearray)):
        return data
    view = memoryview(data)
    if view.ndim == 1 and view.itemsize == 1 and view.contiguous:
        return view
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _clean(text: object) -> str:
    """Return text that JSON and the router's decoder can carry: no lone surrogates."""
    return str(text).encode("utf-8", "replace").decode()


def _clean_properties(properties: Mapping[str, str]) -> dict[str, str]:
    return {_clean(key): _clean(value) for key, value in properties.items()}

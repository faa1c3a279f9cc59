"""Results of `predict` as heads of answer messages; exceptions as `RequestError`."""

from __future__ import annotations

from frame.contract.requests import Buffer, Part, RequestError, Response
from frame.wire.messages import AnswerHead
from frame.worker.channel import place_parts

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
    head = AnswerHead(id=job, status=error.status, message=error.message, properties=dict(error.properties))
    if error.body is None:
        head.type_name = error.type_name
        return head, []
    head.parts = place_parts([Part("data", error.body)])
    return head, [error.body]


def response_head(job: int, response: Response) -> tuple[AnswerHead, list[Buffer]]:
    """Return head and body of an answered job: the part `data`, else the first (DJL's rule)."""
    head = AnswerHead(
        id=job, status=response.status, message=response.message, properties=dict(response.properties)
    )
    parts = [part for part in response.parts if part.key == "data"][:1] or list(response.parts[:1])
    head.parts = place_parts(parts)
    return head, [part.data for part in parts]
